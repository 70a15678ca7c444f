"""PCGrad rounded toward retain: ``<u,r> >= 0`` for the stored update by the exact oracle, and its coefficient."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import retainfirst as rf
from backends import BACKENDS
from oracle import DTYPES, finite, gradients, same_bits
from retainfirst import kernels, reference
from retainfirst import moments as m
from retainfirst.kernels import _eager
from retainfirst.theory.arrays import as_array

WEIGHTS = st.sampled_from([1.0, 0.3, 1e-30, 1e30, 5e-324, 1e300])
SAFE = rf.PCGrad(round_toward_retain=True)


@pytest.fixture(params=BACKENDS)
def backend(request):
    with kernels.use_backend(request.param):
        yield request.param


def opposed(forget: Tensor, retain: Tensor, rule: rf.PCGrad) -> bool:
    """Whether the update of one group works against retain; False too if it is not finite."""
    u = rf.combine(forget, retain, rule)
    return bool(u.isfinite().all()) and reference.dot_sign(as_array(u), as_array(retain)) < 0


@st.composite
def problems(draw: st.DrawFn, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[list[int]]]:
    """Up to four pairs of gradients, many of them in conflict, and groups of them."""
    forget, retain = [], []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.one_of(st.integers(1, 8), st.integers(1, 200)))
        f, r = draw(finite(dtype, n)), draw(finite(dtype, n))
        turned = f * -torch.sign(r) * torch.sign(f)
        forget.append(draw(st.sampled_from([f, turned, torch.where(torch.arange(n) % 2 == 0, f, turned)])))
        retain.append(r)
    owner = [draw(st.integers(0, 1)) for _ in forget]
    return forget, retain, [group for g in (0, 1) if (group := [i for i, o in enumerate(owner) if o == g])]


@pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=() if dtype == torch.bfloat16 else pytest.mark.slow) for dtype in DTYPES]
)
def test_no_group_is_opposed_exactly(backend, dtype):
    judged = 0

    @settings(max_examples=150, deadline=None, database=None)
    @given(problems(dtype), WEIGHTS, WEIGHTS)
    def check(problem, alpha, gamma):
        nonlocal judged
        forget, retain, groups = problem
        update = [r.clone() for r in retain]
        rule = rf.PCGrad(alpha=alpha, gamma=gamma, round_toward_retain=True)
        rule.combine_(forget, update, groups)
        for group in groups:
            u, r = (np.concatenate([as_array(x[i]) for i in group]) for x in (update, retain))
            if np.isfinite(u).all():
                judged += 1
                assert reference.dot_sign(u, r) >= 0

    check()
    assert judged > 30  # of some 200: most updates are finite


@pytest.mark.parametrize("scope", ["tensor", "module", "global"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_scope(backend, dtype, scope):
    names = ["a.weight", "a.bias", "b.weight"]
    ratio = 1e4 if dtype == torch.float16 else 1e4 / torch.finfo(dtype).eps
    without = 0
    for seed in range(20):
        pairs = [gradients(200, torch.float64, seed=3 * seed + i, ratio=ratio) for i in range(3)]
        f = {name: pair[0].to(dtype) for name, pair in zip(names, pairs, strict=True)}
        r = {name: (pair[1] / 2**8).to(dtype) for name, pair in zip(names, pairs, strict=True)}
        for safe in (True, False):
            rule = rf.PCGrad(scope=scope, round_toward_retain=safe)
            u = rf.combine(f, r, rule)
            for group in rule.group(names).members:
                left, right = (np.concatenate([as_array(x[names[i]]) for i in group]) for x in (u, r))
                sign = reference.dot_sign(left, right)
                assert sign >= 0 or not safe
                without += sign < 0
    assert without > 0


def test_bfloat16_with_a_long_forget_gradient(backend):
    random = np.random.default_rng(7)
    conflicting = without = 0
    for _ in range(200):
        f, r = (
            (random.normal(size=256) * 1e4).astype(ml_dtypes.bfloat16),
            random.normal(size=256).astype(ml_dtypes.bfloat16),
        )
        f, r = (torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) for x in (f, r))
        conflicting += reference.dot_sign(as_array(f), as_array(r)) < 0
        without += opposed(f, r, rf.PCGrad())
        assert not opposed(f, r, SAFE)
    assert conflicting > 50
    assert without > 0


def test_a_dot_product_that_loses_more_than_the_margin():
    # A partial sum of 2**54 loses every 1 that is added to it, even with 64 partial sums; in the end the large terms cancel.
    large = torch.full((64,), 2.0**54, dtype=torch.float64)
    f = torch.cat([large, -torch.ones(1 << 14, dtype=torch.float64), -large])
    with kernels.use_backend("eager"):
        assert opposed(f, torch.ones_like(f), rf.PCGrad(alpha=1e-3))
        assert not opposed(f, torch.ones_like(f), rf.PCGrad(alpha=1e-3, round_toward_retain=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_coefficient_holds_for_the_worst_that_the_sums_can_lose(dtype):
    unit = Fraction(torch.finfo(dtype).eps) / 2
    sums, exponents = st.floats(0.5, 1.0, width=32), st.integers(-900, 900)
    large, small = (1e300, 5e-324) if dtype == torch.float64 else (1e30, 1e-45)

    @settings(max_examples=300, deadline=None, database=None)
    # The weight and the power of two are out of range separately; their product is not.
    @example(9, 1.0, 1.0, 0.0, (-1, 1, 1), -900, 900, large, True)
    @example(9, 1.0, 1.0, 0.0, (-1, 1, 1), 900, -100, small, True)
    @given(
        st.integers(1, int(1 / unit) // 8), sums, sums, st.floats(-1, 1, width=32), st.tuples(*[st.sampled_from([-1, 1])] * 3),
        exponents, exponents, WEIGHTS.filter(lambda x: x < 1e38 or dtype == torch.float64), st.booleans(),
    )  # fmt: skip
    def check(n, f, r, cosine, signs, ef, er, gamma, parallel):
        ff, rr = Fraction(f) ** 2, Fraction(r) ** 2
        fr = -Fraction(f) * Fraction(r) if parallel else Fraction(cosine) * Fraction(f) * Fraction(r)
        lost = n * unit  # relative to the product of the lengths
        found = ff * (1 + signs[0] * lost), rr * (1 + signs[1] * lost), fr + signs[2] * lost * Fraction(f) * Fraction(r)
        row = torch.zeros(1, len(m.COLUMNS), dtype=dtype)
        # float() has one rounding error, like the last addition.
        row[0, m.FF], row[0, m.RR], row[0, m.FR] = (float(x) for x in found)
        row[0, m.COUNT] = n
        if dtype == torch.float64:
            row[0, m.EF], row[0, m.ER] = ef, er
        rule = rf.PCGrad(alpha=small, gamma=gamma, round_toward_retain=True)
        c_retain, c_forget = (c.item() for c in rule.coefficients(row))
        if math.isfinite(c_retain):
            shift = Fraction(2) ** int(row[0, m.EF].item() - row[0, m.ER].item())
            assert Fraction(c_retain) * rr + Fraction(c_forget) * fr * shift >= 0

    check()


def test_where_nothing_conflicts_the_coefficient_is_alpha():
    rows = torch.zeros(4, len(m.COLUMNS), dtype=torch.float64)
    rows[:, m.COUNT] = 100
    rows[:, [m.FF, m.RR, m.FR]] = torch.tensor(
        [[1.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [math.nan, 1.0, math.nan]], dtype=torch.float64
    )
    c_retain, c_forget = rf.PCGrad(alpha=0.3, gamma=0.7, round_toward_retain=True).coefficients(rows)
    assert c_retain.tolist() == [0.3] * 4
    assert c_forget.tolist() == [0.7] * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_the_option_the_bits_are_those_of_the_formula(backend, dtype):
    for seed, ratio in enumerate((1.0, 1e2, 1e4)):
        f, r = gradients(3001, dtype, seed=seed, ratio=ratio)
        u = rf.combine(f, r, "pcgrad", alpha=0.3, gamma=0.7)
        if backend == "auto":
            assert as_array(u).tobytes() == reference.combine(as_array(f), as_array(r), "pcgrad", 0.3, 0.7).tobytes()
        with torch.no_grad():
            [row] = kernels.moments([f], [r])
            ratio_found = (row[m.FR] / row[m.RR]).item()
        c_retain = 0.3 - 0.7 * ratio_found if ratio_found < 0 else 0.3
        exact = c_retain * r.double() + 0.7 * f.double()
        assert backend == "auto" or same_bits(u, exact.to(dtype))
        assert not same_bits(u, rf.combine(f, r, "pcgrad", alpha=0.3, gamma=0.7, round_toward_retain=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sums_in_float32_as_on_a_device_without_float64(monkeypatch, dtype):
    monkeypatch.setattr(m, "sum_dtype", lambda _: torch.float32)
    without = 0
    with kernels.use_backend("eager"):
        for seed in range(50):
            for ratio in (1.0, 1e2, 1e4, 1e10 if dtype != torch.float16 else 1.0):
                f, r = gradients(300, dtype, seed=seed, ratio=ratio)
                r = r / 2**8  # float16 has no ratio of 1e6 otherwise
                assert not opposed(f, r, SAFE)
                without += opposed(f, r, rf.PCGrad())
    assert without > 0


def test_nothing_is_read_back_to_the_host():
    # A meta tensor has no data to read.
    f, r = torch.ones(40, device="meta"), torch.ones(40, device="meta")
    table = torch.ones(1, len(m.COLUMNS), device="meta", dtype=torch.float64)
    written = _eager.linear_([f], [r], *SAFE.coefficients(table), toward_retain=True)
    assert written.shape == (1, len(m.COLUMNS))


def test_the_option_is_part_of_the_combiner():
    assert rf.make_combiner("pcgrad", round_toward_retain=True) == SAFE
    assert rf.PCGrad() == rf.PCGrad(round_toward_retain=False) != SAFE
    assert eval(repr(SAFE), vars(rf)) == SAFE
    with pytest.raises(rf.RetainFirstError, match="round_toward_retain must be True or False, not 'no'"):
        rf.PCGrad(round_toward_retain="no")
    with pytest.raises(rf.RetainFirstError, match="blur has no option 'round_toward_retain'"):
        rf.make_combiner("blur", round_toward_retain=True)
