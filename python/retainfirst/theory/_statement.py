"""A statement of the theorem book."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from retainfirst.theory.cases import Case
from retainfirst.theory.claims import Claim
from retainfirst.theory.runs import Run

__all__ = ["PAPER", "PROJECT", "Statement"]

Status = Literal["holds", "holds with conditions", "refuted"]
PAPER = "Xiao et al., ACL 2026"
PROJECT = "this project"


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
        runs: Of a statement about steps: the optimisers that it is judged with, the usual one first. Empty: it is about updates.
        raw: Whether it allows an overflow, so that any finite bits can be drawn.
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
    runs: tuple[Run, ...] = ()
    raw: bool = False

    def conclusion(self, case: Case) -> bool:
        """Return whether the conclusion is true of a case; the hypothesis is not checked."""
        return self.objection(case) is None
