"""The theorem book: the statements about the combiners, whether they hold, and how each one is judged.

The documentation, the command's table and the tests all read them from here. ``f`` and ``r`` are the forget and the retain
gradient, ``u`` is the update, C are the coordinates where the signs of ``f`` and ``r`` oppose, S are the others, and
``l = gamma / alpha``. The other names are those of :mod:`retainfirst.theory.sums`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.theory import _judgements, _proofs
from retainfirst.theory.cases import Case
from retainfirst.theory.claims import Claim

__all__ = ["STATEMENTS", "Statement", "statement"]

Status = Literal["holds", "holds with conditions", "refuted"]
_PAPER = "Xiao et al., ACL 2026"
_PROJECT = "this project"


@dataclass(frozen=True)
class Statement:
    """One statement about combiners, with the functions that judge it.

    Attributes:
        id: Its number, such as ``"T5"``. An X does not hold as stated.
        title: A few words.
        words: The statement in plain words.
        formula: The statement as a formula.
        source: Who states it.
        status: Whether it holds, holds under the conditions that it contains, or is refuted.
        combiner: The combiner that it is about: one that keeps it or, if it is refuted, one that breaks it.
        promised_by: The combiners whose stored updates keep it.
        exact_only: Further combiners that keep it in exact arithmetic; rounding can break it.
        hypothesis: Whether the statement applies to a case. For a stored update it also excludes the cases in which rounding
            alone could reverse the conclusion.
        objection: The reason why the conclusion is false, as text; None if it is true. It has no tolerance where the
            conclusion is about a sign or an order.
        claims: The statement over the real numbers, for every dimension; of a refuted statement, the claims that are refuted.
        exact: Whether it can be judged on a combiner's formula too, and not only on stored updates.
        domains: The domains to draw from (:data:`retainfirst.theory.strategies.DOMAINS`). Empty: all.
        grouped: Whether it is about projections at every scope, and not only about all coordinates as one group.
    """

    id: str
    title: str
    words: str
    formula: str
    source: str
    status: Status
    combiner: str
    promised_by: tuple[str, ...]
    hypothesis: Callable[[Case], bool]
    objection: Callable[[Case], str | None]
    claims: tuple[Claim, ...] = ()
    exact: bool = True
    exact_only: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    grouped: bool = False

    def conclusion(self, case: Case) -> bool:
        """Return whether the conclusion is true of a case; the hypothesis is not checked."""
        return self.objection(case) is None


STATEMENTS = (
    Statement(
        id="T1",
        title="No coordinate is opposed",
        words=(
            "Both forms of SAGO move no coordinate against the retain gradient. This is exact in every floating-point format."
        ),
        formula="u_i r_i >= 0 for all i",
        source=_PAPER,
        status="holds",
        combiner="sago",
        promised_by=("sago", "sago_keep_retain"),
        hypothesis=_judgements.always,
        objection=_judgements.opposed_coordinate,
        claims=_proofs.NO_COORDINATE_IS_OPPOSED,
        exact=False,
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
        source=_PAPER,
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
        source=_PAPER,
        status="holds",
        combiner="sago",
        promised_by=("sago",),
        hypothesis=_judgements.always,
        objection=_judgements.mixed_parts,
        claims=_proofs.DISJOINT_SUPPORTS,
        exact=False,
    ),
    Statement(
        id="T4",
        title="PCGrad's cosine",
        words=(
            "Under global conflict and at the global scope PCGrad's cosine depends only on the lengths of r and of the "
            "projected forget gradient h, and tends to 0 as gamma grows. The orthogonal projection makes the same update there."
        ),
        formula="cos(u, r) = (1 + l^2 |h|^2 / |r|^2)^(-1/2)",
        source=_PAPER,
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
        source=_PROJECT,
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
        source=_PROJECT,
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
        source=_PROJECT,
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
        source=_PROJECT,
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
        source=_PAPER,
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
        source=_PROJECT,
        status="refuted",
        combiner="pcgrad",
        promised_by=("sago", "sago_keep_retain"),
        hypothesis=_judgements.always,
        objection=_judgements.against_retention,
        exact=False,
        domains=("strong", "conflicting", "nearly_parallel", "subnormal"),
        grouped=True,
    ),
)
"""All statements, in order."""


def statement(name: str) -> Statement:
    """Return a statement by its number, such as ``"T5"``; upper and lower case are the same.

    Raises:
        RetainFirstError: No statement has that number; the text lists them all.
    """
    for one in STATEMENTS:
        if one.id == str(name).upper():
            return one
    raise RetainFirstError(f"Unknown statement {name!r}. {did_you_mean(str(name), [one.id for one in STATEMENTS])}")
