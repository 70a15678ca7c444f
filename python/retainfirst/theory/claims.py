"""Statements about real numbers in a form that a solver decides and that fractions can be put into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

__all__ = ["PAIR", "Claim", "Unknowns", "pair_of_gradients"]

PAIR = "a b p q s t l"
"""The six numbers of a pair (:class:`retainfirst.theory.sums.Sums`), and ``l = gamma / alpha``."""


class Unknowns(SimpleNamespace):
    """The numbers that a claim speaks of, by name: a solver's variables, or fractions.

    Those of :data:`PAIR` bring what follows from them.
    """

    @property
    def R(self) -> Any:  # noqa: N802 - the theory's name
        """``|r|^2``."""
        return self.a + self.b

    @property
    def c(self) -> Any:
        """``<f, r>``."""
        return self.p - self.t

    @property
    def F(self) -> Any:  # noqa: N802 - the theory's name
        """``|r|^2 |h|^2`` for PCGrad's ``h`` under conflict."""
        return (self.q + self.s) * self.R - self.c**2


@dataclass(frozen=True)
class Claim:
    """Whenever all assumptions hold, so do all conclusions.

    Attributes:
        words: What is claimed.
        unknowns: Names with blanks between.
        assume: Makes the assumptions of the unknowns.
        conclude: Makes the conclusions, likewise.
    """

    words: str
    unknowns: str
    assume: Callable[[Any], list[Any]]
    conclude: Callable[[Any], list[Any]]


def pair_of_gradients(v: Any) -> list[Any]:
    """What is true of the six numbers of any two vectors in any dimension (Cauchy and Schwarz), and of weights."""
    return [
        v.a >= 0,
        v.b >= 0,
        v.p >= 0,
        v.q >= 0,
        v.s >= 0,
        v.t >= 0,
        v.l >= 0,
        v.p**2 <= v.b * v.q,
        v.t**2 <= v.a * v.s,
    ]
