"""Claims about real numbers, in a form that takes a solver's variables as well as fractions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

__all__ = ["PAIR", "Claim", "Unknowns", "pair_of_gradients"]

PAIR = "a b p q s t l"
"""The six numbers of a pair (:class:`retainfirst.theory.sums.ExactSums`), and ``l = gamma / alpha``."""


class Unknowns(SimpleNamespace):
    """The numbers of a claim by name: a solver's variables, or fractions.

    The properties are sums and products of the numbers of :data:`PAIR`.
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
    """If all assumptions hold, then all conclusions hold.

    Attributes:
        words: The claim in words.
        unknowns: The names of the unknowns, separated by blanks.
        assume: Returns the assumptions, given the unknowns.
        conclude: Returns the conclusions, given the unknowns.
        steps: Of a claim about single coordinates: for each step the names of those of forget and those of retain, so that a
            model of the solver can be replayed.
        start: The names of the parameters' coordinates before the first step; empty: zeros.
    """

    words: str
    unknowns: str
    assume: Callable[[Any], list[Any]]
    conclude: Callable[[Any], list[Any]]
    steps: tuple[tuple[str, str], ...] = ()
    start: str = ""


def pair_of_gradients(v: Any) -> list[Any]:
    """Return the assumptions that all weights and all pairs of vectors meet, in every dimension (Cauchy and Schwarz)."""
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
