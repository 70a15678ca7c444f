"""The theorem book: what is stated about the rules, what of it holds, and how each statement is judged.

One source for the documentation, the command's table and the tests. Names as in :mod:`retainfirst.theory.sums`: ``f`` and
``r`` the forget and the retain gradient, ``u`` the update, S the coordinates where their signs do not oppose, C the others,
``l = gamma / alpha``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.theory import _judgements, _proofs
from retainfirst.theory.claims import Claim
from retainfirst.theory.judges import Judge

__all__ = ["STATEMENTS", "Statement", "statement"]

Status = Literal["holds", "holds with conditions", "refuted"]
_PAPER = "Xiao et al., ACL 2026"
_PROJECT = "this project"


@dataclass(frozen=True)
class Statement:
    """Something stated about the rules, and what is needed to judge it.

    Attributes:
        id: Such as ``"T5"``; the X's do not hold as stated.
        title: A few words.
        words: The statement in plain words.
        formula: The statement as a formula.
        source: Who states it.
        status: What is known: it holds, holds under the conditions that are part of it, or is refuted.
        rule: The rule that it speaks of: the one that keeps the promise or, if it is refuted, breaks it.
        promised_by: Names of all combiners for which it holds.
        hypothesis: Whether a case is one that it speaks of. For a stored update this leaves out the cases in which
            rounding alone could turn the conclusion round.
        objection: What speaks against the conclusion, in words; None where it holds. Judged without tolerance where it is
            about a sign or an order.
        claims: The statement over the real numbers, in every dimension; for a refuted one, what is refuted.
        exact: Whether it can be judged on the rule's exact update too, not only on a stored one.
        domains: Where to look for cases (:data:`retainfirst.theory.strategies.DOMAINS`); empty: everywhere.
        grouped: Whether it speaks of PCGrad at every scope, not only of all coordinates as one group.
    """

    id: str
    title: str
    words: str
    formula: str
    source: str
    status: Status
    rule: str
    promised_by: tuple[str, ...]
    hypothesis: Callable[[Judge], bool]
    objection: Callable[[Judge], str | None]
    claims: tuple[Claim, ...] = ()
    exact: bool = True
    domains: tuple[str, ...] = ()
    grouped: bool = False

    def conclusion(self, judge: Judge) -> bool:
        """Whether the conclusion holds for a case, whatever the hypothesis says."""
        return self.objection(judge) is None


STATEMENTS = (
    Statement(
        id="T1",
        title="No coordinate is opposed",
        words="SAGO, in both forms, moves no coordinate against the retain gradient; exactly so in every floating-point format.",
        formula="u_i r_i >= 0 for all i",
        source=_PAPER,
        status="holds",
        rule="sago",
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
            "The update of SAGO, in both forms, and of PCGrad at every scope has no negative dot product with the retain "
            "gradient. Of stored numbers this is asked where rounding and underflow cannot use up PCGrad's alpha |r|^2."
        ),
        formula="<u, r> >= 0; for PCGrad <u, r> >= alpha |r|^2",
        source=_PAPER,
        status="holds",
        rule="pcgrad",
        promised_by=("sago", "sago_keep_retain", "pcgrad"),
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
            "the others, and so the sum of two orthogonal parts."
        ),
        formula="u_C = alpha r_C, u_S = gamma f_S; <(f on S), (r on C)> = 0",
        source=_PAPER,
        status="holds",
        rule="sago",
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
            "Under global conflict and at the global scope PCGrad's cosine depends on nothing but the lengths of r and of the "
            "projected forget gradient h, and tends to 0 as gamma grows."
        ),
        formula="cos(u, r) = (1 + l^2 |h|^2 / |r|^2)^(-1/2)",
        source=_PAPER,
        status="holds",
        rule="pcgrad",
        promised_by=("pcgrad",),
        hypothesis=_judgements.conflict_with_angles,
        objection=_judgements.other_than_the_formula,
        claims=_proofs.COSINE_OF_PCGRAD,
        domains=("conflicting", "nearly_parallel", "strong", "weak", "zeros"),
    ),
    Statement(
        id="T5",
        title="SAGO is tighter where the forget signal is strong",
        words=(
            "Under global conflict, if on the agreeing coordinates the weighted forget signal is at least as strong as the "
            "retain signal that it replaces, SAGO's cosine with r is at least PCGrad's, and larger if there are such coordinates."
        ),
        formula="<f, r> < 0 and l p >= b imply cos(SAGO, r) >= cos(PCGrad, r), strictly if b > 0",
        source=_PROJECT,
        status="holds with conditions",
        rule="sago",
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
            "SAGO with keep_retain is at least as close to r as PCGrad at any scope, for all gradients and weights."
        ),
        formula="cos(SAGO keep_retain, r) >= cos(PCGrad, r)",
        source=_PROJECT,
        status="holds",
        rule="sago_keep_retain",
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
            "Under global conflict with p > 0 and h != 0 there is a finite l*, at most b / p, beyond which SAGO is strictly "
            "tighter than PCGrad; below it SAGO is nowhere strictly tighter."
        ),
        formula="l > l* if and only if cos(SAGO, r) > cos(PCGrad, r)",
        source=_PROJECT,
        status="holds with conditions",
        rule="sago",
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
            "SAGO's cosine never falls below the smaller of its two parts' cosines, whatever the weights; a part that is zero "
            "leaves its term out. PCGrad has no such floor."
        ),
        formula="cos(SAGO, r) >= min(sqrt(a / R), p / sqrt(q R))",
        source=_PROJECT,
        status="holds",
        rule="sago",
        promised_by=("sago",),
        hypothesis=_judgements.above_the_floor,
        objection=_judgements.below_the_floor,
        claims=_proofs.FLOOR,
    ),
    Statement(
        id="X1",
        title="SAGO is always tighter than PCGrad",
        words="At equal weights, under global conflict, SAGO is strictly closer to r than PCGrad. False as stated: T5, T7.",
        formula="<f, r> < 0 and alpha = gamma imply cos(SAGO, r) > cos(PCGrad, r)",
        source=_PAPER,
        status="refuted",
        rule="sago",
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
            "The stored update has no negative dot product with the retain gradient, however long the forget gradient is. "
            "False for PCGrad; true for SAGO, in both forms, since nothing is subtracted."
        ),
        formula="<round(u), r> >= 0 at any |f| / |r|",
        source=_PROJECT,
        status="refuted",
        rule="pcgrad",
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
    """Return a statement by its number, such as ``"T5"``, in upper or lower case.

    Raises:
        RetainFirstError: There is none of that number; the text lists them.
    """
    for one in STATEMENTS:
        if one.id == str(name).upper():
            return one
    raise RetainFirstError(f"Unknown statement {name!r}. {did_you_mean(str(name), [one.id for one in STATEMENTS])}")
