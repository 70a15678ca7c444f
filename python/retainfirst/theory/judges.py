"""Who decides whether a statement holds for an update: the exact oracle for stored ones, fractions for the rule itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from retainfirst import reference
from retainfirst.theory.sums import Angle, Pair, root

__all__ = ["Exact", "Judge", "Stored"]


class Judge(ABC):
    """An update and the pair it was made of, as far as a statement asks about it.

    Attributes:
        pair: The gradients and weights.
        rule: The rule that the statement speaks of.
    """

    def __init__(self, pair: Pair, rule: str) -> None:
        self.pair, self.rule = pair, rule

    @property
    @abstractmethod
    def angle(self) -> Angle:
        """The update's dot product with retain and its square, exactly."""

    @abstractmethod
    def order_to_pcgrad(self) -> int:
        """-1, 0 or 1 as the cosine of the update and retain is below, equal to or above that of PCGrad's update."""

    @abstractmethod
    def outlasts_rounding(self, gap: float) -> bool:
        """Whether cosines that differ by ``gap`` before rounding must stand in the same order after it."""

    @abstractmethod
    def dot_outlasts_rounding(self) -> bool:
        """Whether the sign of the update's dot product with retain must be the same before and after rounding."""

    @abstractmethod
    def products_are_normal(self) -> bool:
        """Whether retain's square is so large that what underflows beside it is lost in rounding."""

    @abstractmethod
    def is_near(self, cosine: float, squared: Fraction) -> bool:
        """Whether the update's cosine is the given one, as far as it was rounded at all."""

    @property
    @abstractmethod
    def pcgrad_angle(self) -> Angle:
        """The same of the PCGrad update that the update is compared with."""

    @property
    def gap(self) -> float:
        """By how much the rule's cosine exceeds PCGrad's before any rounding."""
        return self.pair.exact(self.rule).cosine - self.pair.exact("pcgrad").cosine

    @property
    def has_angles(self) -> bool:
        """Whether retain and the two updates are all different from zero, so that their cosines exist."""
        exact = [self.pair.exact(rule) for rule in (self.rule, "pcgrad")]
        return self.pair.sums.retain_square > 0 and all(angle.square > 0 for angle in exact)


class Exact(Judge):
    """The rule over the rational numbers: what a theorem is about."""

    @property
    def angle(self) -> Angle:
        """See :class:`Judge`."""
        return self.pair.exact(self.rule)

    @property
    def pcgrad_angle(self) -> Angle:
        """See :class:`Judge`."""
        return self.pair.exact("pcgrad")

    def order_to_pcgrad(self) -> int:
        """See :class:`Judge`."""
        mine, other = self.angle.squared_cosine, self.pcgrad_angle.squared_cosine
        return (mine > other) - (mine < other)

    def outlasts_rounding(self, gap: float) -> bool:  # noqa: ARG002 - nothing is rounded
        """See :class:`Judge`."""
        return True

    def dot_outlasts_rounding(self) -> bool:
        """See :class:`Judge`."""
        return True

    def products_are_normal(self) -> bool:
        """See :class:`Judge`."""
        return True

    def is_near(self, cosine: float, squared: Fraction) -> bool:  # noqa: ARG002 - nothing is rounded
        """See :class:`Judge`."""
        return self.angle.squared_cosine == squared


class Stored(Judge):
    """An update as a combiner stored it.

    Attributes:
        update: Shape ``[n]``, the pair's dtype.
    """

    def __init__(self, pair: Pair, rule: str, update: NDArray[Any]) -> None:
        super().__init__(pair, rule)
        self.update = update

    @cached_property
    def is_finite(self) -> bool:
        """Whether no element is NaN or infinite."""
        return bool(np.isfinite(self.update).all())

    @cached_property
    def angle(self) -> Angle:
        """See :class:`Judge`."""
        return self._angle(self.update)

    @property
    def pcgrad_angle(self) -> Angle:
        """See :class:`Judge`."""
        return self._angle(self.pcgrad)

    def _angle(self, update: NDArray[Any]) -> Angle:
        return Angle(
            reference.dot(update, self.pair.retain), reference.dot(update, update), self.pair.sums.retain_square
        )

    @cached_property
    def pcgrad(self) -> NDArray[Any]:
        """PCGrad's update of the same pair, as the Rust reference stores it."""
        pair = self.pair
        return reference.combine(
            pair.forget, pair.retain, "pcgrad", alpha=pair.alpha, gamma=pair.gamma, groups=pair.groups or None
        )

    @property
    def has_angles(self) -> bool:
        """See :class:`Judge`; here the stored updates must not have vanished either. One that is not finite is no excuse."""
        return super().has_angles and bool(
            (self.update != 0).any() and (self.pcgrad != 0).any() and np.isfinite(self.pcgrad).all()
        )

    def order_to_pcgrad(self) -> int:
        """See :class:`Judge`."""
        return reference.compare_cosines(self.update, self.pcgrad, self.pair.retain)

    def outlasts_rounding(self, gap: float) -> bool:
        """See :class:`Judge`.

        A vector that is off by the share d of its length is off by at most 2d in direction, and so is its cosine with anything.
        The update: four roundings to the format at most (weights, products, sum, storing), and the smallest number's share of an
        element that underflows. PCGrad: one rounding to the format after an arithmetic in float64 whose errors grow with n and
        with the forget gradient's length beside retain's.
        """
        eps, tiny, n = self.eps, self.tiny, len(self.update)
        mine, other = (_length(self.pair.exact(rule)) for rule in (self.rule, "pcgrad"))
        if mine == 0 or other == 0:
            return False
        mine_off = 4 * eps + 4 * math.sqrt(n) * tiny / mine
        other_off = eps + n * 2.0**-50 * (1 + self.stretch) + math.sqrt(n) * tiny / other
        return gap > 2 * (mine_off + other_off) + 2.0**-50  # and the gap's own arithmetic

    def dot_outlasts_rounding(self) -> bool:
        """See :class:`Judge`.

        Before rounding the dot product of a projected update is at least ``alpha |r|^2``. Rounded dot products and a rounded
        update take at most the share ``(4 + sqrt(n)) eps`` of ``(alpha |r| + gamma |f|) |r|`` from it (the square root of n as in
        :meth:`is_near`), unless the products themselves underflow. Half of ``alpha |r|^2`` is left to each of the two terms.
        """
        sums, n = self.pair.sums, len(self.update)
        share = Fraction((4 + math.sqrt(n)) * self.eps)
        enough = 2 * share <= 1 and (2 * share * self.pair.ratio) ** 2 * sums.forget_square <= sums.retain_square
        return enough and self.products_are_normal()

    def products_are_normal(self) -> bool:
        """See :class:`Judge`."""
        square = Fraction(self.eps * min(1.0, self.pair.alpha)) * self.pair.sums.retain_square
        smallest = Fraction(float(ml_dtypes.finfo(self.update.dtype).smallest_normal))
        return square > 0 and len(self.update) * smallest <= square

    def is_near(self, cosine: float, squared: Fraction) -> bool:  # noqa: ARG002 - a rounded update has a rounded cosine
        """See :class:`Judge`.

        The bound is that of :meth:`outlasts_rounding` for a PCGrad whose dot products were rounded to the format as well, with
        the square root of n for their sums (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019).
        """
        n, length = len(self.update), _length(self.pair.exact(self.rule))
        if length == 0:
            return True
        off = 4 * (2 + math.sqrt(n)) * self.eps * (1 + self.stretch) + 4 * math.sqrt(n) * self.tiny / length
        return abs(self.angle.cosine - cosine) <= 2 * off + 2.0**-50

    @property
    def stretch(self) -> float:
        """``l |f| / |r|``: how much longer the weighted forget gradient is than the retain gradient."""
        sums = self.pair.sums
        return root(self.pair.ratio**2 * sums.forget_square / sums.retain_square)

    @property
    def eps(self) -> float:
        """The distance from 1 to the next larger number of the format."""
        return float(ml_dtypes.finfo(self.update.dtype).eps)

    @property
    def tiny(self) -> float:
        """The format's smallest number above zero."""
        return float(ml_dtypes.finfo(self.update.dtype).smallest_subnormal)


def _length(angle: Angle) -> float:
    return root(angle.square)
