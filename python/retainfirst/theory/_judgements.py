"""Hypotheses and conclusions of the statements as predicates: a hypothesis is a bool, a conclusion the objection to it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retainfirst import reference
from retainfirst.theory.crossing import crossing_bracket
from retainfirst.theory.judges import Judge, Stored
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


def always(judge: Judge) -> bool:  # noqa: ARG001 - a hypothesis that asks nothing
    return True


def opposed_coordinate(judge: Judge) -> str | None:
    """T1, by the signs alone."""
    u, r = _update(judge), judge.pair.retain
    wrong = opposed(u, r)
    if not wrong.any():
        return None
    i = int(wrong.argmax())
    return f"update[{i}] = {u[i]} opposes retain[{i}] = {r[i]}"


def dot_outlasts_rounding(judge: Judge) -> bool:
    return judge.dot_outlasts_rounding()


def against_retention(judge: Judge) -> str | None:
    """T2 and X2: by the exact oracle for a stored update, and with PCGrad's larger bound for the exact one."""
    if not isinstance(judge, Stored):
        least = judge.pair.sums.retain_square * (Fraction(judge.pair.alpha) if judge.rule != "sago" else 0)
        short = judge.angle.dot < least
        return f"<u, r> = {_shown(judge.angle.dot)} is below {_shown(least)}" if short else None
    if not judge.is_finite or reference.dot_sign(judge.update, judge.pair.retain) >= 0:
        return None  # an update that overflowed shows that it did
    return f"<u, r> = {_shown(judge.angle.dot)} is negative: the update works against retention"


def mixed_parts(judge: Judge) -> str | None:
    """T3: both parts as they should be stored; having no coordinate in common, they are orthogonal."""
    u, f, r = _update(judge), judge.pair.forget, judge.pair.retain
    conflict = opposed(f, r)
    wide = np.dtype(np.float64 if f.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore"):
        kept = wide.type(judge.pair.alpha) * r.astype(wide)
        taken = wide.type(judge.pair.gamma) * f.astype(wide)
        expected = np.where(conflict, kept, taken).astype(f.dtype)
    wrong = u != expected
    if wrong.any():
        i = int(wrong.argmax())
        part = "alpha r" if conflict[i] else "gamma f"
        return f"update[{i}] = {u[i]}, but {part} is {expected[i]} there (forget {f[i]}, retain {r[i]})"
    return None


def conflict_with_angles(judge: Judge) -> bool:
    """T4's condition; of stored updates, where the dot products do not underflow."""
    return judge.pair.is_global and judge.pair.conflicts and judge.has_angles and judge.products_are_normal()


def other_than_the_formula(judge: Judge) -> str | None:
    """T4."""
    sums, ratio = judge.pair.sums, judge.pair.ratio
    squared = sums.retain_square / (sums.retain_square + ratio**2 * sums.projected_square)
    cosine = root(squared)
    if judge.is_near(cosine, squared):
        return None
    return f"cos(u, r) = {judge.angle.cosine!r}, but the formula gives {cosine!r}"


def larger_gap_than_rounding(judge: Judge) -> bool:
    return judge.has_angles and judge.outlasts_rounding(judge.gap)


def strong_forget_signal(judge: Judge) -> bool:
    """T5's condition."""
    sums = judge.pair.sums
    strong = judge.pair.is_global and judge.pair.conflicts and judge.pair.ratio * sums.p >= sums.b
    return strong and larger_gap_than_rounding(judge)


def looser_than_pcgrad(judge: Judge) -> str | None:
    """T6."""
    return _looser(judge) if judge.order_to_pcgrad() < 0 else None


def not_tighter_where_it_must_be(judge: Judge) -> str | None:
    """T5: strictly tighter if there are coordinates without conflict."""
    return _looser(judge) if judge.order_to_pcgrad() < int(judge.pair.sums.b > 0) else None


def not_tighter_than_pcgrad(judge: Judge) -> str | None:
    """X1: what it claims is strict."""
    return _looser(judge) if judge.order_to_pcgrad() <= 0 else None


def away_from_the_crossing_point(judge: Judge) -> bool:
    """T7's conditions, with the two cosines apart."""
    pair, sums = judge.pair, judge.pair.sums
    # h = 0 exactly where |f|^2 |r|^2 = <f,r>^2.
    regular = pair.is_global and pair.conflicts and sums.p > 0 and sums.projected_square > 0
    return regular and judge.has_angles and judge.outlasts_rounding(abs(judge.gap))


def wrong_side_of_the_crossing_point(judge: Judge) -> str | None:
    """T7: beyond the crossing point strictly tighter, before it not."""
    low, high = crossing_bracket(judge.pair)
    order, ratio = judge.order_to_pcgrad(), judge.pair.ratio
    beyond, before = (f"l = {as_float(ratio):.6g} is {side} l* = {as_float(high):.6g}" for side in ("beyond", "below"))
    if ratio > high and order <= 0:
        return f"{beyond}, but SAGO is not tighter than PCGrad: {_looser(judge)}"
    if ratio < low and order > 0:
        return f"{before}, but SAGO is tighter than PCGrad"
    return None


def above_the_floor(judge: Judge) -> bool:
    """T8: retain and update are not zero, and no rounding carries the update below the floor."""
    squared = _squared_floor(judge)
    if squared is None or not judge.has_angles:
        return False
    return judge.outlasts_rounding(judge.pair.exact(judge.rule).cosine - root(squared))


def below_the_floor(judge: Judge) -> str | None:
    squared = _squared_floor(judge)
    if squared is None or judge.angle.squared_cosine >= squared:
        return None
    return f"cos(u, r) = {judge.angle.cosine!r} is below the floor {root(squared)!r}"


def conflict_at_equal_weights(judge: Judge) -> bool:
    """X1's condition; the two cosines must be apart, so that neither rounding nor ``h = 0`` refutes it."""
    pair = judge.pair
    if not (pair.is_global and pair.conflicts and pair.alpha == pair.gamma and judge.has_angles):
        return False
    return judge.gap != 0 and judge.outlasts_rounding(abs(judge.gap))


def _update(judge: Judge) -> NDArray[Any]:
    if not isinstance(judge, Stored):
        raise TypeError("only a stored update has coordinates")
    return judge.update


def _shown(x: Fraction) -> str:
    """A fraction for people, also where a float64 would be 0 or infinite."""
    value = as_float(x)
    if x == 0 or (value != 0 and abs(value) != math.inf):
        return f"{value:.6g}"
    return f"{'-' if x < 0 else ''}2^{x.numerator.bit_length() - x.denominator.bit_length()}"


def _looser(judge: Judge) -> str:
    mine, other = judge.angle.cosine, judge.pcgrad_angle.cosine
    nearly = ", as whole numbers tell" if mine >= other else ""
    return f"cos(u, r) = {mine!r} is not above PCGrad's {other!r}{nearly}"


def _squared_floor(judge: Judge) -> Fraction | None:
    """The floor's square; None where both parts are zero."""
    sums = judge.pair.sums
    terms = []
    if sums.a > 0:
        terms.append(sums.a / sums.retain_square)
    if sums.q > 0 and judge.pair.gamma > 0 and sums.retain_square > 0:
        terms.append(sums.p**2 / (sums.q * sums.retain_square))
    return min(terms, default=None)
