"""Exact arithmetic on a pair of gradients: the six numbers that decide every cosine, as fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retainfirst import reference

__all__ = ["Angle", "ExactSums", "GradientPair", "as_float", "opposed", "root"]

Array = NDArray[Any]


@dataclass(frozen=True)
class ExactSums:
    """The six numbers of a pair of gradients, or of one of its groups.

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
    def of(cls, forget: Array, retain: Array) -> ExactSums:
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
    def total(cls, parts: Iterable[ExactSums]) -> ExactSums:
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
        """``|h|^2`` of PCGrad's ``h``: under conflict ``f`` without its component along ``r``, else ``f``."""
        if self.dot >= 0 or self.retain_square == 0:
            return self.forget_square
        return self.forget_square - self.dot**2 / self.retain_square


@dataclass(frozen=True)
class Angle:
    """The exact numbers that give the angle between an update and the retain gradient.

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
        """The square of the cosine with the sign of the cosine, in [-1, 1]; neither vector may be zero."""
        return self.dot * abs(self.dot) / (self.square * self.retain_square)

    @property
    def cosine(self) -> float:
        """The cosine, within a few roundings of float64."""
        length = root(abs(self.squared_cosine))
        return -length if self.dot < 0 else length


@dataclass(frozen=True, eq=False)
class GradientPair:
    """A forget and a retain gradient, with the weights and groups with which they are combined.

    Attributes:
        forget: Shape ``[n]``: float64, float32, float16 or bfloat16, every element finite.
        retain: Shape ``[n]``, same dtype, likewise.
        alpha: Weight of retain, above 0.
        gamma: Weight of forget, at least 0.
        groups: ``(start, stop)`` ranges that cover the arrays; a projection is made in each of them. Empty: one group.
    """

    forget: Array
    retain: Array
    alpha: float = 1.0
    gamma: float = 1.0
    groups: Sequence[tuple[int, int]] = ()

    @cached_property
    def parts(self) -> list[ExactSums]:
        """The six numbers of each group."""
        ranges = self.groups or [(0, len(self.retain))]
        return [ExactSums.of(self.forget[start:stop], self.retain[start:stop]) for start, stop in ranges]

    @cached_property
    def sums(self) -> ExactSums:
        """The six numbers of the whole."""
        return ExactSums.total(self.parts)

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
        """Whether a projection takes all coordinates as one group."""
        return len(self.parts) == 1

    @cached_property
    def _angles(self) -> dict[str, Angle]:
        return {}

    def exact(self, combiner: str) -> Angle:
        """Return the angle of a combiner's update before any rounding, from its definition.

        Args:
            combiner: ``"sago"``, ``"sago_keep_retain"``, ``"pcgrad"``, ``"orthogonal"``, ``"gru"`` or ``"agem"``.
        """
        if combiner not in self._angles:
            self._angles[combiner] = self._exact(combiner)
        return self._angles[combiner]

    def _exact(self, combiner: str) -> Angle:
        alpha, gamma = Fraction(self.alpha), Fraction(self.gamma)
        x = self.sums
        if combiner == "sago":
            return Angle(alpha * x.a + gamma * x.p, alpha**2 * x.a + gamma**2 * x.q, x.retain_square)
        if combiner == "sago_keep_retain":
            along, square = alpha * x.retain_square + gamma * x.p, alpha**2 * x.retain_square
            return Angle(along, square + 2 * alpha * gamma * x.p + gamma**2 * x.q, x.retain_square)
        dot = square = Fraction()
        for part in self.parts:
            rr, fr = part.retain_square, part.dot
            c_r, c_f = _COEFFICIENTS[combiner](alpha, gamma, fr / rr if rr else Fraction())
            dot += c_r * rr + c_f * fr
            square += c_r**2 * rr + 2 * c_r * c_f * fr + c_f**2 * part.forget_square
        return Angle(dot, square, x.retain_square)


_Coefficients = Callable[[Fraction, Fraction, Fraction], tuple[Fraction, Fraction]]


def _without_alpha(alpha: Fraction, gamma: Fraction, k: Fraction) -> tuple[Fraction, Fraction]:  # noqa: ARG001
    return -gamma * min(k, Fraction()), gamma


_COEFFICIENTS: dict[str, _Coefficients] = {
    "pcgrad": lambda alpha, gamma, k: (alpha - gamma * min(k, Fraction()), gamma),
    "orthogonal": lambda alpha, gamma, k: (alpha - gamma * k, gamma),
    "gru": _without_alpha,
    "agem": _without_alpha,
}
"""``c_r`` and ``c_f`` of ``u = c_r r + c_f f`` in one group, from the weights and ``k = <f, r> / |r|^2`` (0 for a zero r)."""


def opposed(x: Array, y: Array) -> NDArray[np.bool_]:
    """Return a mask of the coordinates where two arrays have opposite signs; a zero opposes nothing."""
    mask: NDArray[np.bool_] = ((x < 0) & (y > 0)) | ((x > 0) & (y < 0))
    return mask


def as_float(x: Fraction) -> float:
    """Return a fraction rounded once; infinity if it is too large."""
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def root(x: Fraction) -> float:
    """Return the square root of a fraction from 0 on as a float; infinity if it is too large."""
    if x == 0:
        return 0.0
    # Scale the fraction near 1 by a power of four first: it may lie outside the range of float64 where its root does not.
    shift = (x.numerator.bit_length() - x.denominator.bit_length()) // 2
    try:
        return math.ldexp(math.sqrt(x / Fraction(4) ** shift), shift)
    except OverflowError:
        return math.inf
