"""A case: one update and the pair of gradients that it was made of, with all that a statement asks about them.

A stored update is judged by the exact oracle, a combiner's formula by fractions. Neither has a tolerance.
"""

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
from retainfirst.theory.steps import Step, moves_against
from retainfirst.theory.sums import Angle, GradientPair, root

__all__ = ["Case", "ExactCase", "StepCase", "StoredCase"]


class Case(ABC):
    """An update and its pair of gradients.

    Attributes:
        pair: The gradients and weights.
        combiner: The name of the combiner that the statement is about.
    """

    def __init__(self, pair: GradientPair, combiner: str) -> None:
        self.pair, self.combiner = pair, combiner

    @property
    @abstractmethod
    def angle(self) -> Angle:
        """The update's exact dot product with retain and its exact square."""

    @property
    @abstractmethod
    def pcgrad_angle(self) -> Angle:
        """The angle of PCGrad's update of the same pair."""

    @abstractmethod
    def order_to_pcgrad(self) -> int:
        """-1, 0 or 1 if the update's cosine with retain is below, equal to or above that of PCGrad's update."""

    @abstractmethod
    def outlasts_rounding(self, gap: float) -> bool:
        """Whether two cosines that differ by ``gap`` before rounding must have the same order after it."""

    @abstractmethod
    def dot_outlasts_rounding(self) -> bool:
        """Whether rounding cannot change the sign of a projected update's dot product with retain."""

    @abstractmethod
    def products_are_normal(self) -> bool:
        """Whether retain is so long that products which underflow are smaller than the rounding errors of its square."""

    @abstractmethod
    def is_near(self, cosine: float, squared: Fraction) -> bool:
        """Whether the update's cosine is the given one, up to the rounding errors of the update."""

    @property
    def gap(self) -> float:
        """The combiner's cosine minus PCGrad's, both before rounding."""
        return self.pair.exact(self.combiner).cosine - self.pair.exact("pcgrad").cosine

    @property
    def has_angles(self) -> bool:
        """Whether retain, the update and PCGrad's update all differ from zero, so that their cosines exist."""
        exact = [self.pair.exact(name) for name in (self.combiner, "pcgrad")]
        return self.pair.sums.retain_square > 0 and all(angle.square > 0 for angle in exact)


class ExactCase(Case):
    """A combiner's formula over the rational numbers: the subject of a theorem."""

    @property
    def angle(self) -> Angle:
        """See :class:`Case`."""
        return self.pair.exact(self.combiner)

    @property
    def pcgrad_angle(self) -> Angle:
        """See :class:`Case`."""
        return self.pair.exact("pcgrad")

    def order_to_pcgrad(self) -> int:
        """See :class:`Case`."""
        mine, other = self.angle.squared_cosine, self.pcgrad_angle.squared_cosine
        return (mine > other) - (mine < other)

    def outlasts_rounding(self, gap: float) -> bool:  # noqa: ARG002 - nothing is rounded
        """See :class:`Case`."""
        return True

    def dot_outlasts_rounding(self) -> bool:
        """See :class:`Case`."""
        return True

    def products_are_normal(self) -> bool:
        """See :class:`Case`."""
        return True

    def is_near(self, cosine: float, squared: Fraction) -> bool:  # noqa: ARG002 - nothing is rounded
        """See :class:`Case`."""
        return self.angle.squared_cosine == squared


class StoredCase(Case):
    """An update as a combiner stored it.

    Attributes:
        update: Shape ``[n]``, the pair's dtype.
    """

    def __init__(self, pair: GradientPair, combiner: str, update: NDArray[Any]) -> None:
        super().__init__(pair, combiner)
        self.update = update

    @cached_property
    def is_finite(self) -> bool:
        """Whether every element is finite."""
        return bool(np.isfinite(self.update).all())

    @cached_property
    def angle(self) -> Angle:
        """See :class:`Case`."""
        return self._angle(self.update)

    @property
    def pcgrad_angle(self) -> Angle:
        """See :class:`Case`."""
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
        """See :class:`Case`. The stored updates must differ from zero too; an update that is not finite is judged."""
        return super().has_angles and bool(
            (self.update != 0).any() and (self.pcgrad != 0).any() and np.isfinite(self.pcgrad).all()
        )

    def order_to_pcgrad(self) -> int:
        """See :class:`Case`."""
        return reference.compare_cosines(self.update, self.pcgrad, self.pair.retain)

    def outlasts_rounding(self, gap: float) -> bool:
        """See :class:`Case`.

        A vector that is off by the share d of its length is off by at most 2d in direction, and so is its cosine with any
        vector. The update has at most four roundings to the format (weights, products, sum, storing), and an element that
        underflows is off by at most the format's smallest number. PCGrad's update has one rounding to the format, after
        float64 arithmetic whose errors grow with n and with the ratio of forget's length to retain's.
        """
        eps, tiny, n = self.eps, self.tiny, len(self.update)
        mine, other = (_length(self.pair.exact(name)) for name in (self.combiner, "pcgrad"))
        if mine == 0 or other == 0:
            return False
        mine_off = 4 * eps + 4 * math.sqrt(n) * tiny / mine
        other_off = eps + n * 2.0**-50 * (1 + self.stretch) + math.sqrt(n) * tiny / other
        return gap > 2 * (mine_off + other_off) + 2.0**-50  # the last term is the gap's own error

    def dot_outlasts_rounding(self) -> bool:
        """See :class:`Case`.

        Before rounding the dot product of PCGrad's update, and of an always projected one, is at least ``alpha |r|^2``.
        Rounded dot products and a rounded update take at most the share ``(4 + sqrt(n)) eps`` of
        ``(alpha |r| + gamma |f|) |r|`` from it (the square root of n as in :meth:`is_near`), unless products underflow.
        Each of the two terms may take half of ``alpha |r|^2``.
        """
        sums, n = self.pair.sums, len(self.update)
        share = Fraction((4 + math.sqrt(n)) * self.eps)
        enough = 2 * share <= 1 and (2 * share * self.pair.ratio) ** 2 * sums.forget_square <= sums.retain_square
        return enough and self.products_are_normal()

    def products_are_normal(self) -> bool:
        """See :class:`Case`."""
        square = Fraction(self.eps * min(1.0, self.pair.alpha)) * self.pair.sums.retain_square
        smallest = Fraction(float(ml_dtypes.finfo(self.update.dtype).smallest_normal))
        return square > 0 and len(self.update) * smallest <= square

    def is_near(self, cosine: float, squared: Fraction) -> bool:  # noqa: ARG002 - a rounded update has a rounded cosine
        """See :class:`Case`.

        The bound is that of :meth:`outlasts_rounding` for a PCGrad whose dot products were rounded to the format as well, with
        the square root of n for their sums (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019).
        """
        n, length = len(self.update), _length(self.pair.exact(self.combiner))
        if length == 0:
            return True
        off = 4 * (2 + math.sqrt(n)) * self.eps * (1 + self.stretch) + 4 * math.sqrt(n) * self.tiny / length
        return abs(self.angle.cosine - cosine) <= 2 * off + 2.0**-50

    @property
    def stretch(self) -> float:
        """``l |f| / |r|``: the ratio of the weighted forget gradient's length to the weighted retain gradient's."""
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


class StepCase(StoredCase):
    """A step that an optimiser made of stored updates.

    Attributes:
        step: The step.
    """

    def __init__(self, pair: GradientPair, combiner: str, step: Step) -> None:
        super().__init__(pair, combiner, step.update)
        self.step = step

    @property
    def step_is_finite(self) -> bool:
        """Whether the optimiser left finite parameters."""
        return bool(np.isfinite(self.step.moved).all())

    @property
    def against(self) -> NDArray[np.bool_]:
        """A mask of the coordinates that move against retain."""
        return moves_against(self.step.before, self.step.after, self.pair.retain)

    @cached_property
    def dot(self) -> Fraction:
        """``<d, r>`` without rounding; above 0 the step works against retention."""
        after, before = (reference.dot(x, self.pair.retain) for x in (self.step.after, self.step.before))
        return after - before


def _length(angle: Angle) -> float:
    return root(angle.square)
