"""The exact oracle confirms that each domain has the property of its name; no dot product overflows."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from retainfirst import reference
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.strategies import DOMAINS, LONG, SHORT, groupings, pairs, raw_pairs, weights

every_format = pytest.mark.parametrize("dtype", FORMATS)


def drawn(strategy, check):
    settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))(given(strategy)(check))()


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("domain", DOMAINS)
@every_format
def test_domains(dtype, domain, long):
    info = ml_dtypes.finfo(FORMATS[dtype])

    def check(pair):
        f, r = pair
        assert f.dtype == r.dtype == FORMATS[dtype]
        assert f.shape == r.shape
        assert len(f) in (LONG if long else range(1, SHORT + 1))
        wide = [np.abs(x.astype(np.float64)) for x in (f, r)]
        if dtype != "float64":
            for x, y in ((0, 0), (0, 1), (1, 1)):
                assert (wide[x] * wide[y]).sum() < float(info.max) / 2
        sign = reference.dot_sign(f, r)
        if domain in ("conflicting", "aligned", "orthogonal"):
            assert sign == {"conflicting": -1, "aligned": 1, "orthogonal": 0}[domain]
        if domain == "small":
            assert max(wide[0].max(), wide[1].max()) <= 32
        if domain == "subnormal":
            assert min(wide[0].max(), wide[1].max()) < float(info.smallest_normal)
        if domain == "nearly_parallel":
            np.testing.assert_allclose(wide[0], wide[1], rtol=2 * float(info.eps), atol=float(info.smallest_subnormal))

    drawn(pairs(dtype, [domain], long), check)


@every_format
@pytest.mark.parametrize(
    ("domain", "condition"),
    [
        ("strong", lambda f, r, eps: np.abs(f).max() > np.abs(r).max() / eps > 0),
        ("weak", lambda f, r, eps: np.abs(r).max() > np.abs(f).max() / eps > 0),
        ("zeros", lambda f, r, eps: (f == 0).any() and np.signbit(r[r == 0]).any()),
        ("nearly_parallel", lambda f, r, eps: (f != r).any() and (np.sign(f) == np.sign(r)).all() and len(f) > 1),
        ("nearly_parallel", lambda f, r, eps: (f == -r).all() and (f != 0).any()),
        ("subnormal", lambda f, r, eps: ((f * r == 0) & (f != 0) & (r != 0)).any()),
        ("free", lambda f, r, eps: len(f) == 1),
        ("small", lambda f, r, eps: 0 < np.abs(f).max() < (1e-7 if eps < 1e-5 or eps > 5e-3 else 0.5)),
    ],
)
def test_the_extremes_are_reached(dtype, domain, condition):
    eps = float(ml_dtypes.finfo(FORMATS[dtype]).eps)
    find(
        pairs(dtype, [domain]),
        lambda pair: condition(*(x.astype(np.float64) if domain != "subnormal" else x for x in pair), eps),
        settings=settings(max_examples=2000, database=None),
    )


@every_format
def test_raw_pairs_are_finite_and_reach_the_ends_of_the_format(dtype):
    info = ml_dtypes.finfo(FORMATS[dtype])

    def check(pair):
        assert all(np.isfinite(x).all() for x in pair)
        assert pair[0].shape == pair[1].shape

    drawn(st.one_of(raw_pairs(dtype), raw_pairs(dtype, long=True)), check)
    for low, high in ((float(info.max) / 4, np.inf), (0.0, float(info.smallest_normal))):
        find(
            raw_pairs(dtype, long=True),
            lambda pair, low=low, high=high: ((pair[0].astype(float) > low) & (pair[0].astype(float) < high)).any(),
            settings=settings(max_examples=2000, database=None),
        )


@given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.just(n), groupings(n))))
def test_groupings_cover_once(case):
    n, groups = case
    assert sorted(i for start, stop in groups for i in range(start, stop)) == list(range(n))


@given(weights())
def test_weights_are_in_range(pair):
    alpha, gamma = pair
    assert alpha > 0
    assert gamma >= 0
