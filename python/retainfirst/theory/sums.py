"""Pairs of gradients without rounding: the six numbers that decide every cosine, as fractions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retainfirst import reference

__all__ = ["Angle", "Pair", "Sums", "as_float", "opposed", "root"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Sums:
    """The six numbers of a pair, or of one of its groups.

    With C the coordinates where ``f`` and ``r`` have opposite signs, and S the others:

    Attributes:
        a: ``|r_C|^2``.
        b: ``|r_S|^2``.
        p: ``<f_S, r_S>``, at least 0.
        q: ``|f_S|^2``.
        s: ``|f_C|^2``.
        t: ``-<f_C, r_C>``, at least 0.
    """

    a: Fraction
    b: Fraction
    p: Fraction
    q: Fraction
    s: Fraction
    t: Fraction

    @classmethod
    def of(cls, forget: Array, retain: Array) -> Sums:
        """Measure a pair of flat arrays of one dtype, every element finite."""
        conflict = opposed(forget, retain)
        zero = np.zeros((), forget.dtype)
        f_c, r_c = np.where(conflict, forget, zero), np.where(conflict, retain, zero)
        f_s, r_s = np.where(conflict, zero, forget), np.where(conflict, zero, retain)
        dot = reference.dot
        return cls(
            a=dot(r_c, r_c), b=dot(r_s, r_s), p=dot(f_s, r_s), q=dot(f_s, f_s), s=dot(f_c, f_c), t=-dot(f_c, r_c)
        )

    @classmethod
    def total(cls, parts: Iterable[Sums]) -> Sums:
        """Add the numbers of groups that share no coordinate."""
        rows = [(x.a, x.b, x.p, x.q, x.s, x.t) for x in parts]
        return cls(*(sum(column, Fraction()) for column in zip(*rows, strict=True)))

    @property
    def retain_square(self) -> Fraction:
        """``|r|^2``."""
        return self.a + self.b

    @property
    def forget_square(self) -> Fraction:
        """``|f|^2``."""
        return self.q + self.s

    @property
    def dot(self) -> Fraction:
        """``<f, r>``: below 0 the gradients conflict as a whole."""
        return self.p - self.t

    @property
    def projected_square(self) -> Fraction:
        """``|h|^2`` of PCGrad's ``h``: of ``f`` without its part along ``r`` under conflict, else of ``f``."""
        if self.dot >= 0 or self.retain_square == 0:
            return self.forget_square
        return self.forget_square - self.dot**2 / self.retain_square


@dataclass(frozen=True)
class Angle:
    """What an exact update's angle to the retain gradient consists of.

    Attributes:
        dot: ``<u, r>``.
        square: ``|u|^2``.
        retain_square: ``|r|^2``.
    """

    dot: Fraction
    square: Fraction
    retain_square: Fraction

    @property
    def squared_cosine(self) -> Fraction:
        """The cosine's square with the cosine's sign, in [-1, 1]; neither vector may be zero."""
        return self.dot * abs(self.dot) / (self.square * self.retain_square)

    @property
    def cosine(self) -> float:
        """The cosine, within a few roundings of float64."""
        length = root(abs(self.squared_cosine))
        return -length if self.dot < 0 else length


@dataclass(frozen=True, eq=False)
class Pair:
    """A forget and a retain gradient with the weights of a combination.

    Attributes:
        forget: Shape ``[n]``: float64, float32, float16 or bfloat16, every element finite.
        retain: Shape ``[n]``, same dtype, likewise.
        alpha: Weight of retain, above 0.
        gamma: Weight of forget, at least 0.
        groups: ``(start, stop)`` pairs that cover the arrays: PCGrad decides for each by itself.
    """

    forget: Array
    retain: Array
    alpha: float = 1.0
    gamma: float = 1.0
    groups: Sequence[tuple[int, int]] = ()

    @cached_property
    def parts(self) -> list[Sums]:
        """The six numbers of each group."""
        ranges = self.groups or [(0, len(self.retain))]
        return [Sums.of(self.forget[start:stop], self.retain[start:stop]) for start, stop in ranges]

    @cached_property
    def sums(self) -> Sums:
        """The six numbers of the whole."""
        return Sums.total(self.parts)

    @property
    def ratio(self) -> Fraction:
        """``l = gamma / alpha``."""
        return Fraction(self.gamma) / Fraction(self.alpha)

    @property
    def conflicts(self) -> bool:
        """Whether the whole gradients conflict: ``<f, r> < 0``."""
        return self.sums.dot < 0

    @property
    def is_global(self) -> bool:
        """Whether PCGrad sees all coordinates as one group."""
        return len(self.parts) == 1

    def exact(self, rule: str) -> Angle:
        """Return what a rule gives before any rounding, from its definition.

        Args:
            rule: ``"sago"``, ``"sago_keep_retain"`` or ``"pcgrad"``.
        """
        alpha, gamma = Fraction(self.alpha), Fraction(self.gamma)
        x = self.sums
        if rule == "sago":
            return Angle(alpha * x.a + gamma * x.p, alpha**2 * x.a + gamma**2 * x.q, x.retain_square)
        # Both other rules are alpha r + gamma h; they differ by <h, r> and |h|^2.
        if rule == "sago_keep_retain":
            along, square = x.p, x.q
        else:
            along = sum((max(part.dot, Fraction()) for part in self.parts), Fraction())
            # In a group whose retain gradient is zero the dot product is 0 too.
            square = sum((part.projected_square for part in self.parts), Fraction())
        return Angle(
            alpha * x.retain_square + gamma * along,
            alpha**2 * x.retain_square + 2 * alpha * gamma * along + gamma**2 * square,
            x.retain_square,
        )


def opposed(x: Array, y: Array) -> NDArray[np.bool_]:
    """Return where two arrays have opposite signs; a zero opposes nothing."""
    mask: NDArray[np.bool_] = ((x < 0) & (y > 0)) | ((x > 0) & (y < 0))
    return mask


def as_float(x: Fraction) -> float:
    """Return a fraction rounded once; infinity where it is too large."""
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def root(x: Fraction) -> float:
    """Return the square root of a fraction that is not negative, as a float; infinity where it is too large."""
    if x == 0:
        return 0.0
    # A power of four brings the fraction near 1, so that neither it nor its root leaves float64's range on the way.
    shift = (x.numerator.bit_length() - x.denominator.bit_length()) // 2
    try:
        return math.ldexp(math.sqrt(x / Fraction(4) ** shift), shift)
    except OverflowError:
        return math.inf
