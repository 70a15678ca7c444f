"""The crossing point: SAGO is tighter than PCGrad beyond it and not before it, exactly."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from retainfirst import reference
from retainfirst.errors import RetainFirstError
from retainfirst.theory import crossing_point
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.crossing import crossing_bracket
from retainfirst.theory.strategies import pairs
from retainfirst.theory.sums import GradientPair


def is_tighter(pair, ratio):
    """Compare the exact squared cosines, times ``|r|^2``, at ``alpha = 1`` and ``gamma = ratio``."""
    sums = pair.sums
    sago = (sums.a + ratio * sums.p) ** 2 / (sums.a + ratio**2 * sums.q)
    return sago > sums.retain_square**2 / (sums.retain_square + ratio**2 * sums.projected_square)


conflicting = st.sampled_from(list(FORMATS)).flatmap(
    lambda dtype: pairs(dtype, ["conflicting", "strong", "weak", "small"])
)


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # short pairs often have no agreeing coordinate
@given(conflicting, st.integers(1, 40))
def test_tighter_beyond_and_not_before(arrays, k):
    pair = GradientPair(*arrays)
    sums = pair.sums
    assume(pair.conflicts and sums.p > 0 and sums.projected_square > 0)
    low, high = crossing_bracket(pair)
    assert 0 < low < high <= sums.b / sums.p
    assert high - low <= high / 2**55
    step = Fraction(1, 2**k)
    assert is_tighter(pair, high * (1 + step))
    assert not is_tighter(pair, low * (1 - step))
    assert crossing_point(*arrays) == float(high)


@given(conflicting)
def test_without_agreement(arrays):
    """With p = 0 SAGO has only the conflicting part of retain in its favour, and becomes tighter for some gradients only."""
    f, r = arrays
    f = np.where((f.astype(float) * r.astype(float)) > 0, np.zeros_like(f), f)
    pair = GradientPair(f, r)
    assume(pair.conflicts and pair.sums.p == 0)
    found = crossing_point(f, r)
    big = Fraction(2) ** 200
    if math.isinf(found):
        assert not is_tighter(pair, big)
    else:
        assert is_tighter(pair, Fraction(found) * 2 if found else Fraction(1, 2**200))
        assert found == 0 or not is_tighter(pair, Fraction(found) / 2)


def test_the_example_of_the_theory():
    retain, forget = np.array([1.0, 1.0]), np.array([0.01, -0.02])
    found = crossing_point(forget, retain)
    assert found == pytest.approx(100 / 3, rel=1e-12)
    for ratio, order in ((0.99 * found, -1), (1.01 * found, 1)):
        updates = [reference.combine(forget, retain, name, gamma=ratio) for name in ("sago", "pcgrad")]
        assert reference.compare_cosines(*updates, retain) == order


def test_any_container_and_any_size():
    generator = torch.Generator().manual_seed(0)
    f, r = torch.randn(2, 1000, 300, generator=generator)
    f -= 0.1 * r
    whole = crossing_point(f, r)
    assert 0 < whole < 10
    assert crossing_point(f.numpy(), r.numpy()) == whole
    assert crossing_point([f[:10], f[10:]], [r[:10], r[10:]]) == whole
    assert crossing_point({"a": f[:10], "b": f[10:]}, {"a": r[:10], "b": r[10:]}) == whole
    assert crossing_point({"a": f[:10], "b": f[10:], "c": None}, {"c": None, "b": r[10:], "a": r[:10]}) == whole
    assert crossing_point([f, None], [r, torch.zeros(3)]) == whole
    assert crossing_point(f.bfloat16(), r.bfloat16()) == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize(
    ("forget", "retain"), [([-1e-320, 5e-324], [1.7e308, 1.7e308]), ([-1e300, 1e-300, 1e300], [1e300, 1e300, 1e-300])]
)
def test_beyond_the_range_of_float64(forget, retain):
    assert crossing_point(np.array(forget), np.array(retain)) > 0


def test_a_multiple_never_becomes_tighter():
    r = np.array([1.0, -2.0, 3.0])
    assert crossing_point(-2 * r, r) == math.inf


@pytest.mark.parametrize(
    ("forget", "retain", "text"),
    [
        (np.ones(2), np.ones(2), "is not negative"),
        (np.zeros(2), np.ones(2), "is not negative"),
        (np.full(2, 1e308), np.full(2, 1e308), "inf is not negative"),
        (np.array([-1.0, np.nan]), np.ones(2), "the forget gradient holds NaN"),
        (np.array([-1.0]), np.ones(2), "forget is float64 of shape .1,. and retain is float64 of shape .2,."),
        (np.array([-1.0], np.float32), np.ones(1), "float32"),
        ("forget", np.ones(1), "gradient: a str; give two tensors"),
        ([-np.ones(1), np.ones(1, np.float32)], [np.ones(1), np.ones(1, np.float32)], "are float32, float64"),
        ([-np.ones(2)], np.ones(2), "gradient: a list; give two tensors"),
        ([-np.ones(2)], [np.ones(2), np.ones(1)], "1 forget gradients but 2"),
        ({"a": -np.ones(2)}, {"b": np.ones(2)}, "only one of them has a, b"),
        (-np.ones((1, 2)), np.ones((2, 1)), "forget is float64 of shape"),
        (-np.ones(2, int), np.ones(2, int), "int64 is none of"),
        ([None], [None], "no gradients"),
    ],
)
def test_bad_input(forget, retain, text):
    with pytest.raises(RetainFirstError, match=text):
        crossing_point(forget, retain)
