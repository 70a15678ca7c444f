"""Elements rounded toward retain: on retain's side, near the exact value, the same bits on both backends; NaN and infinity."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import retainfirst as rf
from backends import BACKENDS
from oracle import BITS, DTYPES, finite, gradients, projection, raw_bits, same_bits
from retainfirst import kernels

SAFE = rf.PCGrad(round_toward_retain=True)
COEFFICIENTS = st.one_of(st.floats(-4, 4), st.floats(allow_nan=False, allow_infinity=False))


@pytest.fixture(params=BACKENDS)
def backend(request):
    with kernels.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_are_on_the_side_of_retain_and_near(backend, dtype):
    @settings(max_examples=100, deadline=None, database=None)
    @given(finite(dtype, 20), finite(dtype, 20), COEFFICIENTS, COEFFICIENTS)
    def check(f, r, c_retain, c_forget):
        u = r.clone()
        kernels.linear_([f], [u], *(torch.tensor([c], dtype=torch.float64) for c in (c_retain, c_forget)), True)
        before = torch.where(r > 0, -math.inf, math.inf).to(dtype)
        before = _neighbour(u, before).double()
        for a, b, found, next_one in zip(*(x.double().tolist() for x in (f, r, u, before)), strict=True):
            if math.isfinite(found) and math.isfinite(next_one) and b != 0:
                kept, taken = Fraction(c_retain) * Fraction(b), Fraction(c_forget) * Fraction(a)
                gained = (Fraction(found) - kept - taken) * (1 if b > 0 else -1)
                # float64 is not rounded to a narrower format, so that only the margin remains.
                unit = Fraction(0) if dtype == torch.float64 else abs(Fraction(found) - Fraction(next_one))
                assert 0 <= gained < unit + (abs(kept) + abs(taken)) / 2**50 + Fraction(5e-324) * 8

    check()


def _neighbour(x: Tensor, goal: Tensor) -> Tensor:
    """The next number toward plus or minus infinity; torch.nextafter lacks the 16-bit formats in some versions."""
    kind = BITS[x.dtype]
    up = goal > 0
    step = torch.where((x > 0) == up, 1, -1).to(kind)
    smallest = torch.where(up, 1, torch.iinfo(kind).min + 1).to(kind)
    return torch.where(x == 0, smallest, x.view(kind) + step).view(x.dtype)


def test_products_that_underflow_are_still_on_the_side_of_retain(backend):
    tiny = torch.tensor([5e-324, -5e-324, 5e-324], dtype=torch.float64)
    update, third = tiny.clone(), torch.tensor([0.3], dtype=torch.float64)
    kernels.linear_([torch.tensor([0.0, 0.0, -5e-324], dtype=torch.float64)], [update], third, third / 2, True)
    assert (update * torch.sign(tiny) >= 5e-324).all()


@pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=() if dtype == torch.bfloat16 else pytest.mark.slow) for dtype in DTYPES]
)
def test_both_backends_give_the_same_bits(dtype):
    @settings(max_examples=200, deadline=None, database=None)
    @given(st.integers(1, 100), st.data(), COEFFICIENTS, COEFFICIENTS)
    def check(n, data, c_retain, c_forget):
        f, r = (data.draw(st.one_of(finite(dtype, n), raw_bits(dtype, n))) for _ in range(2))
        chosen = [torch.tensor([c], dtype=torch.float64) for c in (c_retain, c_forget)]
        updates = []
        for name in BACKENDS:
            with kernels.use_backend(name):
                updates.append(r.clone())
                kernels.linear_([f], [updates[-1]], *chosen, True)
        assert same_bits(*updates)

    check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_update_stays_near_the_projection(backend, dtype):
    f, r = gradients(2049, dtype, seed=3, ratio=5.0)
    exact = projection("pcgrad", f, r, 0.3, 0.7)
    found = rf.combine(f, r, "pcgrad", alpha=0.3, gamma=0.7, round_toward_retain=True).double()
    # One unit in the last place; the coefficient is larger by 3 (n + 32) 2**-53 |f|/|r|, and the sums have errors as well.
    longer = 6 * (len(f) + 32) * 2.0**-53 * 0.7 * float(f.double().norm() / r.double().norm())
    arithmetic = 2.0**-49 * (f.double().abs() + 8 * r.double().abs())
    unit = 0.0 if dtype == torch.float64 else torch.finfo(dtype).eps
    assert ((found - exact).abs() <= unit * found.abs() + longer * r.double().abs() + arithmetic).all()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (5, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_layouts(backend, dtype, shape):
    f, r = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    expected = rf.combine(f, r, SAFE)
    assert expected.shape == shape
    for a, b in [
        (torch.stack([f, f], -1)[..., 0], torch.stack([r, r], -1)[..., 0]),
        (f, torch.stack([r, r], -1)[..., 0]),
    ]:
        written = torch.empty_strided(b.shape, b.stride(), dtype=dtype).copy_(b)
        SAFE.combine_([a], [written])
        # The last bits of the dot products depend on the layout; the coefficient's margin is larger.
        torch.testing.assert_close(written, expected, rtol=2 * torch.finfo(dtype).eps, atol=6 * 67 * 2.0**-53)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["forget", "retain"])
def test_a_value_that_is_not_finite_shows_in_the_update(backend, dtype, bad, where):
    for sign in (1.0, -1.0):
        f, r = gradients(64, dtype, seed=4)
        f[7], r[7] = -1.0, sign
        (f if where == "forget" else r)[7] = bad
        assert not rf.combine(f, r, SAFE)[7].isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_overflow_shows_whatever_the_direction(backend, dtype):
    f = torch.tensor([-torch.finfo(dtype).max, torch.finfo(dtype).max], dtype=dtype)
    u = rf.combine(
        f, torch.tensor([1.0, -1.0], dtype=dtype), "pcgrad", gamma=3.0, round_toward_retain=True, alpha=1e-30
    )
    assert u.isfinite().all()  # the two parts cancel
    u = rf.combine(f, torch.tensor([0.0, 0.0], dtype=dtype), "pcgrad", gamma=3.0, round_toward_retain=True)
    assert u.tolist() == [-math.inf, math.inf]
    r = torch.tensor([1.0, 1.0], dtype=dtype)
    u = rf.combine(f, r, "pcgrad", gamma=3.0, round_toward_retain=True)
    assert u.tolist() == [-math.inf, math.inf]


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_gradients(backend, dtype):
    f, _ = gradients(50, dtype)
    zero = torch.zeros_like(f)
    assert torch.equal(rf.combine(f, zero, SAFE), f)
    u = rf.combine(zero, f, SAFE)
    assert ((u * f >= 0) & (u.abs() >= f.abs())).all()
    assert torch.equal(u == 0, f == 0)
