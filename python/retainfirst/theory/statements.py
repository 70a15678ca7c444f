"""The theorem book: the statements about the combiners, whether they hold, and how each one is judged.

The documentation, the command's table and the tests all read them from here. ``f`` and ``r`` are the forget and the retain
gradient, ``u`` is the update, ``d`` is the step that an optimiser makes of it, C are the coordinates where the signs of ``f`` and
``r`` oppose, S are the others, and ``l = gamma / alpha``. The other names are those of :mod:`retainfirst.theory.sums`.
"""

from __future__ import annotations

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.theory import _judgements, _proofs
from retainfirst.theory._about_steps import ABOUT_STEPS
from retainfirst.theory._statement import PAPER, PROJECT, Statement

__all__ = ["STATEMENTS", "Statement", "statement"]

STATEMENTS = (
    Statement(
        id="T1",
        title="No coordinate is opposed",
        words=(
            "Both forms of SAGO move no coordinate against the retain gradient. This is exact in every floating-point format."
        ),
        formula="u_i r_i >= 0 for all i",
        source=PAPER,
        status="holds",
        combiner="sago",
        promised_by=("sago", "sago_keep_retain"),
        hypothesis=_judgements.always,
        objection=_judgements.opposed_coordinate,
        claims=_proofs.NO_COORDINATE_IS_OPPOSED,
        exact=False,
        raw=True,
    ),
    Statement(
        id="T2",
        title="Never against retention",
        words=(
            "The updates of both forms of SAGO, and those of PCGrad and of the orthogonal projection at every scope, have no "
            "negative dot product with the retain gradient. Stored updates are judged only where rounding and underflow take "
            "less than the alpha |r|^2 that these projections keep. GRU and A-GEM keep none of it: under conflict their dot "
            "product is 0, so that any rounding error can make it negative. They keep the statement in exact arithmetic only."
        ),
        formula="<u, r> >= 0; PCGrad: >= alpha |r|^2; orthogonal: = alpha |r|^2; GRU and A-GEM under conflict: = 0",
        source=PAPER,
        status="holds",
        combiner="pcgrad",
        promised_by=("sago", "sago_keep_retain", "pcgrad", "orthogonal"),
        exact_only=("gru", "agem"),
        hypothesis=_judgements.dot_outlasts_rounding,
        objection=_judgements.against_retention,
        claims=_proofs.NEVER_AGAINST_RETENTION,
        grouped=True,
    ),
    Statement(
        id="T3",
        title="Disjoint supports",
        words=(
            "SAGO's update is the weighted retain gradient on the conflicting coordinates and the weighted forget gradient on "
            "the others. It is the sum of two orthogonal parts."
        ),
        formula="u_C = alpha r_C, u_S = gamma f_S; <(f on S), (r on C)> = 0",
        source=PAPER,
        status="holds",
        combiner="sago",
        promised_by=("sago",),
        hypothesis=_judgements.always,
        objection=_judgements.mixed_parts,
        claims=_proofs.DISJOINT_SUPPORTS,
        exact=False,
        raw=True,
    ),
    Statement(
        id="T4",
        title="PCGrad's cosine",
        words=(
            "Under global conflict and at the global scope PCGrad's cosine depends only on the lengths of r and of the "
            "projected forget gradient h, and tends to 0 as gamma grows. The orthogonal projection makes the same update there."
        ),
        formula="cos(u, r) = (1 + l^2 |h|^2 / |r|^2)^(-1/2)",
        source=PAPER,
        status="holds",
        combiner="pcgrad",
        promised_by=("pcgrad", "orthogonal"),
        hypothesis=_judgements.conflict_with_angles,
        objection=_judgements.other_than_the_formula,
        claims=_proofs.COSINE_OF_PCGRAD,
        domains=("conflicting", "nearly_parallel", "strong", "weak", "zeros"),
    ),
    Statement(
        id="T5",
        title="SAGO is tighter where the forget signal is strong",
        words=(
            "Let the gradients conflict as a whole. If on S the weighted forget gradient is at least as strong as the retain "
            "gradient that it replaces, then SAGO's cosine with r is at least PCGrad's. It is larger if r is not zero on S."
        ),
        formula="<f, r> < 0 and l p >= b imply cos(SAGO, r) >= cos(PCGrad, r), strictly if b > 0",
        source=PROJECT,
        status="holds with conditions",
        combiner="sago",
        promised_by=("sago",),
        hypothesis=_judgements.strong_forget_signal,
        objection=_judgements.not_tighter_where_it_must_be,
        claims=_proofs.TIGHTER_WHERE_FORGET_IS_STRONG,
        domains=("conflicting", "strong", "nearly_parallel", "zeros"),
    ),
    Statement(
        id="T6",
        title="Keeping the retain gradient makes it unconditional",
        words=(
            "SAGO with keep_retain is at least as close to r as PCGrad at any scope, for all gradients and all weights."
        ),
        formula="cos(SAGO keep_retain, r) >= cos(PCGrad, r)",
        source=PROJECT,
        status="holds",
        combiner="sago_keep_retain",
        promised_by=("sago_keep_retain",),
        hypothesis=_judgements.larger_gap_than_rounding,
        objection=_judgements.looser_than_pcgrad,
        claims=_proofs.KEEPING_RETAIN_IS_TIGHTER,
        grouped=True,
    ),
    Statement(
        id="T7",
        title="Crossing point",
        words=(
            "Under global conflict with p > 0 and h != 0 there is a finite l*, at most b / p. Beyond l* SAGO is strictly "
            "tighter than PCGrad; below l* it is not."
        ),
        formula="l > l* if and only if cos(SAGO, r) > cos(PCGrad, r)",
        source=PROJECT,
        status="holds with conditions",
        combiner="sago",
        promised_by=("sago",),
        hypothesis=_judgements.away_from_the_crossing_point,
        objection=_judgements.wrong_side_of_the_crossing_point,
        claims=_proofs.CROSSING_POINT,
        domains=("conflicting", "strong", "weak", "zeros"),
    ),
    Statement(
        id="T8",
        title="Floor",
        words=(
            "At all weights SAGO's cosine is at least the smaller one of its two parts' cosines; a part that is zero "
            "does not count. PCGrad has no such floor."
        ),
        formula="cos(SAGO, r) >= min(sqrt(a / R), p / sqrt(q R))",
        source=PROJECT,
        status="holds",
        combiner="sago",
        promised_by=("sago",),
        hypothesis=_judgements.above_the_floor,
        objection=_judgements.below_the_floor,
        claims=_proofs.FLOOR,
    ),
    Statement(
        id="X1",
        title="SAGO is always tighter than PCGrad",
        words="At equal weights, under global conflict, SAGO is strictly closer to r than PCGrad. False; see T5 and T7.",
        formula="<f, r> < 0 and alpha = gamma imply cos(SAGO, r) > cos(PCGrad, r)",
        source=PAPER,
        status="refuted",
        combiner="sago",
        promised_by=(),
        hypothesis=_judgements.conflict_at_equal_weights,
        objection=_judgements.not_tighter_than_pcgrad,
        claims=_proofs.ALWAYS_TIGHTER,
        domains=("conflicting", "weak", "strong", "zeros"),
    ),
    Statement(
        id="X2",
        title="PCGrad's guarantee survives rounding",
        words=(
            "The stored update never has a negative dot product with the retain gradient, at any length of the forget gradient. "
            "False for PCGrad and for every other projection that rounds to nearest. True for both forms of SAGO, which subtract "
            "nothing."
        ),
        formula="<round(u), r> >= 0 at any |f| / |r|",
        source=PROJECT,
        status="refuted",
        combiner="pcgrad",
        promised_by=("sago", "sago_keep_retain"),
        hypothesis=_judgements.always,
        objection=_judgements.against_retention,
        exact=False,
        raw=True,
        domains=("strong", "conflicting", "nearly_parallel", "subnormal"),
        grouped=True,
    ),
    *ABOUT_STEPS,
)
"""All statements, in order: those about updates, then those about steps."""


def statement(name: str) -> Statement:
    """Return a statement by its number, such as ``"T5"``; upper and lower case are the same.

    Raises:
        RetainFirstError: No statement has that number; the text lists them all.
    """
    for one in STATEMENTS:
        if one.id == str(name).upper():
            return one
    raise RetainFirstError(f"Unknown statement {name!r}. {did_you_mean(str(name), [one.id for one in STATEMENTS])}")
