"""The reference on numpy arrays: the rules' definitions, extremes, and refusals that name what is wrong."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from oracle import ELEMENTWISE, elementwise_array, exact_dot
from retainfirst import reference
from retainfirst.errors import DtypeMismatch, RetainFirstError, ShapeMismatch, UnknownCombiner

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def draw(dtype: Any, n: int = 2049, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(seed)
    f, r = random.normal(size=n), random.normal(size=n) * 10
    f[:20], r[10:30] = 0.0, -0.0
    return f.astype(dtype), r.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_rules_are_bit_equal_to_the_formula(name: str, dtype: Any) -> None:
    f, r = draw(dtype)
    update = reference.combine(f, r, name, alpha=0.7, gamma=1.3)
    assert update.dtype == f.dtype
    assert update.tobytes() == elementwise_array(name, f, r, 0.7, 1.3).tobytes()


@pytest.mark.parametrize("name", ["pcgrad", "blur"])
def test_group_rules_follow_exact_arithmetic(name: str) -> None:
    f, r = draw(np.float64, n=300)
    r -= 20 * f  # so that they conflict
    groups = [(100, 300), (0, 100)]
    update = reference.combine(f, r, name, alpha=0.7, gamma=1.3, groups=groups)
    for start, stop in groups:
        g, s, u = f[start:stop], r[start:stop], update[start:stop]
        fr, square = exact_dot(g, s), exact_dot(s, s) if name == "pcgrad" else exact_dot(g, g)
        assert fr < 0
        of_r, of_f = Fraction(0.7), Fraction(1.3)
        if name == "pcgrad":
            of_r -= of_f * fr / square
        else:
            of_f -= of_r * fr / square
        for a, b, c in zip(g.tolist(), s.tolist(), u.tolist(), strict=True):
            parts = of_r * Fraction(b), of_f * Fraction(a)
            # Two sums, a quotient, a product and a difference make the coefficient, a product and a sum the element: seven
            # roundings, and the terms of the coefficient have one sign, so that none is magnified.
            bound = 7 * Fraction(2) ** -53 * (abs(parts[0]) + abs(parts[1])) * (1 + Fraction(1, 1000))
            assert abs(Fraction(c) - sum(parts)) <= bound


def test_pcgrad_projects_by_group() -> None:
    f, r = np.array([-4.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0])
    assert reference.combine(f, r, "pcgrad").tolist() == [1 + 2 / 3 - 4, 1 + 2 / 3 + 1, 1 + 2 / 3 + 1]
    assert reference.combine(f, r, "pcgrad", groups=[(2, 3), (0, 2)]).tolist() == [-1.5, 3.5, 2.0]


def test_inputs_are_left_alone() -> None:
    f, r = draw(np.float32)
    before = f.tobytes() + r.tobytes()
    update = reference.combine(f, r, "sago")
    assert f.tobytes() + r.tobytes() == before
    assert not np.shares_memory(update, r)


@pytest.mark.parametrize("dtype", DTYPES)
def test_geometry_of_known_vectors(dtype: Any) -> None:
    f, r, u = (np.array(x, dtype=dtype) for x in ([3.0, -4.0], [0.0, 2.0], [6.0, 8.0]))
    assert reference.geometry(f, r, u) == reference.Geometry(
        cos_forget_retain=-0.8,
        cos_update_retain=0.8,
        cos_update_forget=-14 / 50,
        norm_forget=5.0,
        norm_retain=2.0,
        norm_update=10.0,
        conflict_fraction=0.5,
    )


@pytest.mark.parametrize("scale", [2.0**-1070, 1e-300, 1e-160, 1e160, 1e300])
def test_geometry_of_extremes(scale: float) -> None:
    f, r, u = (np.array(x) * scale for x in ([3.0, -4.0], [0.0, 2.0], [6.0, 8.0]))
    found = reference.geometry(f, r, u)
    # Scaling is exact but for one rounding in each of 3, 4, 2, 6 and 8 times the scale, and those of the formula.
    assert found.cos_forget_retain == pytest.approx(-0.8, rel=1e-14)
    assert found.cos_update_forget == pytest.approx(-0.28, rel=1e-14)
    assert found.norm_forget == pytest.approx(5 * scale, rel=1e-14)
    assert found.norm_update == pytest.approx(10 * scale, rel=1e-14)


def test_geometry_of_zero_vectors_is_undefined() -> None:
    zero, one = np.zeros(3), np.ones(3)
    found = reference.geometry(zero, one, one)
    assert math.isnan(found.cos_forget_retain)
    assert math.isnan(found.cos_update_forget)
    assert found.cos_update_retain == 1.0
    assert found.norm_forget == 0.0


def test_geometry_by_group_and_of_nothing() -> None:
    f, r = draw(np.float32)
    u = reference.combine(f, r, "sum")
    last, first = reference.geometry(f, r, u, groups=[(1000, 2049), (0, 1000)])
    assert first == reference.geometry(f[:1000], r[:1000], u[:1000])
    assert last == reference.geometry(f[1000:], r[1000:], u[1000:])
    empty = np.zeros(0)
    assert reference.combine(empty, empty, "pcgrad").size == 0
    assert reference.geometry(empty, empty, empty).conflict_fraction == 0.0


def test_parallel_vectors_have_cosines_within_one() -> None:
    for seed in range(50):
        f, _ = draw(np.float32, n=101, seed=seed)
        found = reference.geometry(f, f, -f)
        assert (found.cos_forget_retain, found.cos_update_retain) <= (1.0, -1.0 + 1e-15)
        assert found.cos_update_retain >= -1.0


def test_refusals() -> None:
    f, r = draw(np.float32, n=10)
    with pytest.raises(UnknownCombiner, match=r"'saggo'.*Did you mean 'sago'"):
        reference.combine(f, r, "saggo")
    with pytest.raises(DtypeMismatch, match="retain: dtype float64, but forget has float32"):
        reference.combine(f, r.astype(np.float64), "sum")
    with pytest.raises(DtypeMismatch, match="int64 is not one of"):
        reference.combine(np.ones(2, np.int64), np.ones(2, np.int64), "sum")
    with pytest.raises(ShapeMismatch, match="retain: length 9, but forget has 10"):
        reference.combine(f, r[1:], "sum")
    with pytest.raises(ShapeMismatch, match="forget: 2 dimensions"):
        reference.combine(f.reshape(2, 5), r.reshape(2, 5), "sum")
    with pytest.raises(ShapeMismatch, match="update: length 3"):
        reference.geometry(f, r, r[:3])
    with pytest.raises(RetainFirstError, match="alpha: .*above 0"):
        reference.combine(f, r, "sum", alpha=0.0)
    with pytest.raises(RetainFirstError, match=r"groups: no group covers the elements \(4, 6\)"):
        reference.combine(f, r, "pcgrad", groups=[(6, 10), (0, 4)])
    with pytest.raises(RetainFirstError, match="forget: not contiguous"):
        reference.combine(np.ones(20, np.float32)[::2], r, "sum")
    with pytest.raises(RetainFirstError, match="retain: a list"):
        reference.combine(f, r.tolist(), "sum")  # type: ignore[arg-type]
