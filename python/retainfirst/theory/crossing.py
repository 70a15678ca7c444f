"""The crossing point of theorem T7: the ratio of the weights from which on SAGO is tighter than PCGrad."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst.theory.arrays import flatten_pair
from retainfirst.theory.sums import GradientPair, as_float, root

__all__ = ["crossing_bracket", "crossing_point"]

_BITS = 60
"""The number of bits of a crossing point: more than a float64 has."""


def crossing_bracket(pair: GradientPair) -> tuple[Fraction, Fraction]:
    """Return two fractions with the crossing point between them; they agree in :data:`_BITS` bits.

    Under global conflict with ``p > 0`` and ``h != 0`` the sign of :func:`_excess` changes exactly once over ``l > 0``: from
    negative to positive, at ``b / p`` or before. The solver proves all three (T7).

    Args:
        pair: One group, in global conflict, with ``p > 0`` and ``h != 0``.
    """
    high = pair.sums.b / pair.sums.p
    while _excess(pair, high / 2) > 0:
        high /= 2
    low = high / 2
    for _ in range(_BITS):
        middle = (low + high) / 2
        if _excess(pair, middle) > 0:
            high = middle
        else:
            low = middle
    return low, high


def crossing_point(forget: Any, retain: Any) -> float:
    """Return ``l*``: SAGO is strictly closer to the retain gradient than PCGrad exactly where ``gamma / alpha > l*``.

    This is PCGrad with the global scope. The gradients must conflict as a whole, since T7 assumes it: without conflict PCGrad is
    plain addition. The result is computed exactly and rounded once. It is at most ``b / p``, the bound of theorem T5.

    Args:
        forget: The forget gradient: a torch tensor or a numpy array of any shape, or a sequence or a mapping of them, which
            count as one vector (None counts as zero). float64, float32, float16 or bfloat16; every element finite.
        retain: The retain gradient, of the same structure, keys, shapes and dtypes.

    Returns:
        ``l* >= 0``. Infinity if no weight makes SAGO tighter: forget is a negative multiple of retain (``h = 0``), or the
        gradients agree on no coordinate (``p = 0``; for some of these pairs only).

    Raises:
        RetainFirstError: The gradients do not conflict (``<f, r> >= 0``), contain NaN or infinity, or differ in structure,
            keys, shapes or dtypes.

    Source: theorem T7 of this project.

    Example:
        >>> round(crossing_point(torch.tensor([0.01, -0.02]), torch.tensor([1.0, 1.0])), 3)
        33.333
    """
    pair = GradientPair(*flatten_pair(forget, retain))
    sums = pair.sums
    if not pair.conflicts:
        raise RetainFirstError(
            f"crossing_point: <forget, retain> = {as_float(sums.dot):.6g} is not negative; the gradients must conflict as a whole"
        )
    if sums.p > 0 and sums.projected_square > 0:
        return as_float(crossing_bracket(pair)[1])
    # With p = 0 the excess is k l^2 - a b |r|^2 for a constant k. It changes its sign once if k > 0, else never.
    square = sums.retain_square
    slope = sums.a**2 * sums.projected_square - square**2 * sums.q
    return root(sums.a * sums.b * square / slope) if slope > 0 else math.inf


def _excess(pair: GradientPair, ratio: Fraction) -> Fraction:
    """Return a number above 0 if SAGO's cosine is above PCGrad's at a ratio of the weights; for one group in conflict."""
    sums = pair.sums
    sago = (sums.a + ratio * sums.p) ** 2 * (sums.retain_square + ratio**2 * sums.projected_square)
    return sago - sums.retain_square**2 * (sums.a + ratio**2 * sums.q)
