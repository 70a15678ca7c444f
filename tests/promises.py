"""What a combiner is held against, whoever computes it: the statements that it promises, the rule itself, the edge rules.

Each function raises AssertionError with the place. ``tests/property`` holds the library's own implementations against them, and
``tests/meta`` combiners that are wrong on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retainfirst.theory import STATEMENTS
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.search import search
from retainfirst.theory.strategies import groupings, pairs, raw_pairs, weights
from retainfirst.theory.sums import GradientPair, opposed

Call = Callable[[GradientPair], NDArray[Any]]

ELEMENTWISE = ("sum", "sago", "sago_keep_retain")
QUIET = {"database": None, "deadline": None, "report_multiple_bugs": False}


def check_promises(rule: str, call: Call, dtype: str, examples: int) -> None:
    """Every statement that lists the rule, on drawn pairs and weights, judged by the exact oracle."""
    for statement in STATEMENTS:
        if rule in statement.promised_by:
            found = search(statement, call, dtype, examples, name=rule)
            if found.violation is not None:
                raise found.violation
            assert found.judged > 0, f"{statement.id}: no pair met its hypothesis"


def check_rule(rule: str, call: Call, dtype: str, examples: int) -> None:
    """The stored update is the rule's: bit for bit where every operation is rounded as written, else within its bound."""

    for long in (False, True):

        @settings(max_examples=examples if not long else max(examples // 4, 5), **QUIET)
        @seed(0)
        @given(_weighted(dtype, long))
        def check(pair: GradientPair) -> None:
            found = call(pair)
            assert found.shape == pair.retain.shape
            assert found.dtype == pair.retain.dtype
            if rule in ELEMENTWISE:
                expected = written_out(rule, pair)
                different = (found != expected) | (np.signbit(found) != np.signbit(expected))
                assert not different.any(), _place(pair, found, expected, different)
            else:
                _check_projection(rule, pair, found)

        check()


def check_edges(rule: str, call: Call, dtype: str) -> None:
    """What is not finite shows where it is, whichever gradient it stands in and whatever the signs; zeros oppose nothing."""
    kind = FORMATS[dtype]
    for bad in (math.nan, math.inf, -math.inf):
        for other in (1.0, -1.0, 0.0):
            for n, i in ((1, 0), (5, 3), (9, 8), (33, 32)):
                clean = np.where(np.arange(n) % 2, 0.5, -0.25).astype(kind)
                for f_value, r_value in ((bad, other), (other, bad)):
                    f, r = clean.copy(), clean[::-1].copy()
                    f[i], r[i] = f_value, r_value
                    with np.errstate(all="ignore"):
                        u = call(GradientPair(f, r))
                    assert not np.isfinite(u[i]), (
                        f"forget[{i}] = {f_value}, retain[{i}] = {r_value}, but update[{i}] = {u[i]}"
                    )
    zero = np.zeros(3, kind)
    x = np.array([1.0, -2.0, 0.0], kind)
    if rule != "blur":
        np.testing.assert_array_equal(call(GradientPair(x, zero)), x, "a zero retain gradient opposes nothing")
    kept = zero if rule == "sago" else x
    np.testing.assert_array_equal(call(GradientPair(zero, x)), kept, "a zero forget gradient changes nothing")


def written_out(rule: str, pair: GradientPair) -> NDArray[Any]:
    """An element-wise rule in numpy: weights and each operation rounded once, 16-bit formats in float32 and then once more."""
    wide = np.dtype(np.float64 if pair.retain.dtype == np.float64 else np.float32)
    with np.errstate(all="ignore"):
        kept = wide.type(pair.alpha) * pair.retain.astype(wide)
        taken = wide.type(pair.gamma) * pair.forget.astype(wide)
        both = kept + taken
        conflict = opposed(pair.forget, pair.retain)
        update = {
            "sum": both,
            "sago": np.where(conflict, kept, taken),
            "sago_keep_retain": np.where(conflict, kept, both),
        }
        return update[rule].astype(pair.retain.dtype)


@st.composite
def _weighted(draw: st.DrawFn, dtype: str, long: bool) -> GradientPair:
    f, r = draw(st.one_of(pairs(dtype, long=long), raw_pairs(dtype, long)))
    return GradientPair(f, r, *draw(weights()), groups=draw(groupings(len(r))))


def _check_projection(rule: str, pair: GradientPair, found: NDArray[Any]) -> None:
    """Within one unit in the last place of the exact value, plus what float64 arithmetic may add before that.

    A unit: half of one for storing, and torch's way from float64 to a 16-bit format by float32 may round twice. Before: sums of n
    products and some twenty operations, each off by 2^-53 of terms no larger than ``|c_r r| + |c_f f|`` with coefficients of at
    most ``(alpha + gamma)(1 + |f|/|r| + |r|/|f|)``.
    """
    info = ml_dtypes.finfo(pair.retain.dtype)
    largest, tiny = Fraction(float(info.max)), Fraction(float(info.smallest_subnormal))
    eps, alpha, gamma = Fraction(float(info.eps)), Fraction(pair.alpha), Fraction(pair.gamma)
    for (start, stop), sums in zip(pair.groups, pair.parts, strict=True):
        ff, rr, fr = sums.forget_square, sums.retain_square, sums.dot
        if rule == "pcgrad":
            c_r, c_f = alpha - gamma * (fr / rr if fr < 0 else 0), gamma
            reach = alpha + gamma * (1 + (_ceil_root(ff / rr) if rr else 0))
        else:
            c_r, c_f = alpha, gamma - (alpha * fr / ff if ff else 0)
            reach = gamma + alpha * (1 + (_ceil_root(rr / ff) if ff else 0))
        if max(abs(c_r), abs(c_f), reach) > Fraction(1e300) or min(c for c in (abs(c_r), abs(c_f), 1) if c) < Fraction(
            1e-290
        ):
            continue  # the coefficient itself leaves float64, which the docs say
        slack = (2 * (stop - start) + 40) * Fraction(1, 2**53) * reach
        for i in range(start, stop):
            f, r = Fraction(float(pair.forget[i])), Fraction(float(pair.retain[i]))
            exact = c_r * r + c_f * f
            bound = eps * abs(exact) + tiny + slack * (abs(f) + abs(r))
            if not np.isfinite(found[i]):
                assert abs(exact) + bound > largest, f"update[{i}] = {found[i]}, but should be {float(exact)}"
            else:
                wrong = abs(Fraction(float(found[i])) - exact) > bound
                assert not wrong, f"update[{i}] = {found[i]}, but should be {float(exact)}; {_text(pair)}"


def _ceil_root(x: Fraction) -> Fraction:
    return Fraction(math.isqrt(math.ceil(x)) + 1)


def _place(pair: GradientPair, found: NDArray[Any], expected: NDArray[Any], different: NDArray[Any]) -> str:
    i = int(different.argmax())
    inputs = f"forget {pair.forget[i]}, retain {pair.retain[i]}; {_text(pair)}"
    return f"update[{i}] = {found[i]}, but should be {expected[i]}: {inputs}"


def _text(pair: GradientPair) -> str:
    return f"n = {len(pair.retain)}, alpha {pair.alpha}, gamma {pair.gamma}, groups {list(pair.groups)}"
