"""The statements as predicates of a case: each hypothesis returns a bool, each objection a text or None."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retainfirst import reference
from retainfirst.theory.cases import Case, StoredCase
from retainfirst.theory.crossing import crossing_bracket
from retainfirst.theory.sums import as_float, opposed, root

__all__ = [
    "above_the_floor",
    "against_retention",
    "always",
    "away_from_the_crossing_point",
    "below_the_floor",
    "conflict_at_equal_weights",
    "conflict_with_angles",
    "dot_outlasts_rounding",
    "larger_gap_than_rounding",
    "looser_than_pcgrad",
    "mixed_parts",
    "not_tighter_than_pcgrad",
    "not_tighter_where_it_must_be",
    "opposed_coordinate",
    "other_than_the_formula",
    "strong_forget_signal",
    "wrong_side_of_the_crossing_point",
]


_KEEP_ALPHA_R = ("pcgrad", "sago_keep_retain", "orthogonal")
"""The combiners with ``<u, r> >= alpha |r|^2`` in exact arithmetic."""


def always(case: Case) -> bool:  # noqa: ARG001 - the empty hypothesis
    return True


def opposed_coordinate(case: Case) -> str | None:
    """T1: compares signs only."""
    u, r = _update(case), case.pair.retain
    wrong = opposed(u, r)
    if not wrong.any():
        return None
    i = int(wrong.argmax())
    return f"update[{i}] = {u[i]} opposes retain[{i}] = {r[i]}"


def dot_outlasts_rounding(case: Case) -> bool:
    return case.dot_outlasts_rounding()


def against_retention(case: Case) -> str | None:
    """T2 and X2: a stored update by the sign of its dot product, a formula by the larger bound that it keeps."""
    if not isinstance(case, StoredCase):
        kept = Fraction(case.pair.alpha) if case.combiner in _KEEP_ALPHA_R else Fraction()
        least = kept * case.pair.sums.retain_square
        short = case.angle.dot < least
        return f"<u, r> = {_shown(case.angle.dot)} is below {_shown(least)}" if short else None
    if not case.is_finite or reference.dot_sign(case.update, case.pair.retain) >= 0:
        return None  # an update that overflows shows it
    return f"<u, r> = {_shown(case.angle.dot)} is negative: the update works against retention"


def mixed_parts(case: Case) -> str | None:
    """T3: the stored bits of both parts; they share no coordinate and so are orthogonal."""
    u, f, r = _update(case), case.pair.forget, case.pair.retain
    conflict = opposed(f, r)
    wide = np.dtype(np.float64 if f.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore"):
        kept = wide.type(case.pair.alpha) * r.astype(wide)
        taken = wide.type(case.pair.gamma) * f.astype(wide)
        expected = np.where(conflict, kept, taken).astype(f.dtype)
    wrong = u != expected
    if wrong.any():
        i = int(wrong.argmax())
        part = "alpha r" if conflict[i] else "gamma f"
        return f"update[{i}] = {u[i]}, but {part} is {expected[i]} there (forget {f[i]}, retain {r[i]})"
    return None


def conflict_with_angles(case: Case) -> bool:
    """T4's condition; a stored update is judged only if its dot products do not underflow."""
    return case.pair.is_global and case.pair.conflicts and case.has_angles and case.products_are_normal()


def other_than_the_formula(case: Case) -> str | None:
    """T4."""
    sums, ratio = case.pair.sums, case.pair.ratio
    squared = sums.retain_square / (sums.retain_square + ratio**2 * sums.projected_square)
    cosine = root(squared)
    if case.is_near(cosine, squared):
        return None
    return f"cos(u, r) = {case.angle.cosine!r}, but the formula gives {cosine!r}"


def larger_gap_than_rounding(case: Case) -> bool:
    return case.has_angles and case.outlasts_rounding(case.gap)


def strong_forget_signal(case: Case) -> bool:
    """T5's condition, with a gap that rounding cannot close."""
    sums = case.pair.sums
    strong = case.pair.is_global and case.pair.conflicts and case.pair.ratio * sums.p >= sums.b
    return strong and larger_gap_than_rounding(case)


def looser_than_pcgrad(case: Case) -> str | None:
    """T6."""
    return _looser(case) if case.order_to_pcgrad() < 0 else None


def not_tighter_where_it_must_be(case: Case) -> str | None:
    """T5: at least as tight, and strictly tighter if some retain gradient is on coordinates without conflict."""
    return _looser(case) if case.order_to_pcgrad() < int(case.pair.sums.b > 0) else None


def not_tighter_than_pcgrad(case: Case) -> str | None:
    """X1: claims strict order."""
    return _looser(case) if case.order_to_pcgrad() <= 0 else None


def away_from_the_crossing_point(case: Case) -> bool:
    """T7's conditions, with a gap that rounding cannot close."""
    pair, sums = case.pair, case.pair.sums
    regular = pair.is_global and pair.conflicts and sums.p > 0 and sums.projected_square > 0
    return regular and case.has_angles and case.outlasts_rounding(abs(case.gap))


def wrong_side_of_the_crossing_point(case: Case) -> str | None:
    """T7: strictly tighter beyond the crossing point, and not before it."""
    low, high = crossing_bracket(case.pair)
    order, ratio = case.order_to_pcgrad(), case.pair.ratio
    beyond, before = (f"l = {as_float(ratio):.6g} is {side} l* = {as_float(high):.6g}" for side in ("beyond", "below"))
    if ratio > high and order <= 0:
        return f"{beyond}, but SAGO is not tighter than PCGrad: {_looser(case)}"
    if ratio < low and order > 0:
        return f"{before}, but SAGO is tighter than PCGrad"
    return None


def above_the_floor(case: Case) -> bool:
    """T8: retain and update differ from zero, and rounding cannot carry the update below the floor."""
    squared = _squared_floor(case)
    if squared is None or not case.has_angles:
        return False
    return case.outlasts_rounding(case.pair.exact(case.combiner).cosine - root(squared))


def below_the_floor(case: Case) -> str | None:
    squared = _squared_floor(case)
    if squared is None or case.angle.squared_cosine >= squared:
        return None
    return f"cos(u, r) = {case.angle.cosine!r} is below the floor {root(squared)!r}"


def conflict_at_equal_weights(case: Case) -> bool:
    """X1's condition, with two different cosines, so that neither rounding nor ``h = 0`` refutes it."""
    pair = case.pair
    if not (pair.is_global and pair.conflicts and pair.alpha == pair.gamma and case.has_angles):
        return False
    return case.gap != 0 and case.outlasts_rounding(abs(case.gap))


def _update(case: Case) -> NDArray[Any]:
    if not isinstance(case, StoredCase):
        raise TypeError("only a stored update has coordinates")
    return case.update


def _shown(x: Fraction) -> str:
    """Return a fraction as text; as a power of two if a float64 would be 0 or infinite."""
    value = as_float(x)
    if x == 0 or (value != 0 and abs(value) != math.inf):
        return f"{value:.6g}"
    return f"{'-' if x < 0 else ''}2^{x.numerator.bit_length() - x.denominator.bit_length()}"


def _looser(case: Case) -> str:
    mine, other = case.angle.cosine, case.pcgrad_angle.cosine
    nearly = " (the decimals are rounded; the order is exact)" if mine >= other else ""
    return f"cos(u, r) = {mine!r} is not above PCGrad's {other!r}{nearly}"


def _squared_floor(case: Case) -> Fraction | None:
    """Return the square of the floor; None if both parts are zero."""
    sums = case.pair.sums
    terms = []
    if sums.a > 0:
        terms.append(sums.a / sums.retain_square)
    if sums.q > 0 and case.pair.gamma > 0 and sums.retain_square > 0:
        terms.append(sums.p**2 / (sums.q * sums.retain_square))
    return min(terms, default=None)
