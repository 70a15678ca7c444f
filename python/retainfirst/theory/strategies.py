"""Pairs of gradients for property tests with hypothesis (extra ``verify``): named domains, all four formats, any size.

Numbers are bounded so that no dot product of a pair overflows in any format. Most are simple, so that failures shrink to
readable numbers. :func:`raw_pairs` draws any finite bits instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from retainfirst import reference
from retainfirst.theory.arrays import FORMATS

__all__ = ["DOMAINS", "LONG", "SHORT", "groupings", "pairs", "raw_pairs", "weights"]

Array = NDArray[Any]

DOMAINS = (
    "free",
    "conflicting",
    "aligned",
    "orthogonal",
    "zeros",
    "nearly_parallel",
    "strong",
    "weak",
    "small",
    "subnormal",
)
"""The domains:

- ``free``: no condition.
- ``conflicting``, ``aligned``, ``orthogonal``: ``<f, r>`` is negative, positive or exactly 0.
- ``zeros``: many zero coordinates, of both signs.
- ``nearly_parallel``: forget is retain or its negative, with some last bits flipped.
- ``strong``, ``weak``: forget is longer or shorter than retain by a power of two.
- ``small``: both are scaled down as far as products stay normal numbers. A constant added against division by zero shows here.
- ``subnormal``: at least one of the two consists of multiples of the smallest number.
"""

SHORT = 24
"""The largest size at which every element is drawn, and shrunk, separately. Longer arrays are made from a drawn seed."""

LONG = (33, 64, 127, 256, 257, 1000, 1025, 2049, 4097)
"""The sizes of long arrays: full and partial blocks of every kernel."""

_SEEDS = st.integers(0, 2**32 - 1)
_SMALL_SEEDS = st.integers(0, 255)

_QUARTERS = sorted(
    ((f / 4, r / 4) for f in range(-16, 17) for r in range(-16, 17)), key=lambda x: abs(x[0]) + abs(x[1])
)
"""All pairs of multiples of 1/4 up to 4, the simplest first. To draw a pair is faster than to draw two numbers."""

_SHORT_PAIRS = st.lists(st.sampled_from(_QUARTERS), min_size=1, max_size=SHORT)
_LONG_SIZES = st.sampled_from(LONG)
_FLIPPED = st.sampled_from([0.0, 0.1, 0.9])
_TINY = st.sampled_from([(True, True), (True, False), (False, True)])


def pairs(dtype: str, domains: Sequence[str] = DOMAINS, long: bool = False) -> st.SearchStrategy[tuple[Array, Array]]:
    """Return a strategy of forget and retain gradients.

    Args:
        dtype: ``"float64"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        domains: A selection of :data:`DOMAINS`.
        long: Draw the size from :data:`LONG` instead of from 1 to :data:`SHORT`.

    Returns:
        Pairs of flat arrays of one size, every element finite.
    """
    if len(domains) == 1:
        return _pairs(dtype, domains[0], long)
    return st.sampled_from(list(domains)).flatmap(lambda domain: _pairs(dtype, domain, long))


@st.composite
def raw_pairs(draw: st.DrawFn, dtype: str, long: bool = False) -> tuple[Array, Array]:
    """Draw a pair of any finite bits: all exponents, subnormals, both zeros, the largest numbers."""
    kind = FORMATS[dtype]
    size = 2 * kind.itemsize
    if long:
        bits = np.random.default_rng(draw(_SEEDS)).bytes(size * draw(st.sampled_from(LONG)))
    else:
        bits = b"".join(draw(st.lists(st.binary(min_size=size, max_size=size), min_size=1, max_size=SHORT)))
    x: Array = np.frombuffer(bits, kind)
    with np.errstate(invalid="ignore"):  # ml_dtypes warns about NaN
        x = np.where(np.isfinite(x), x, np.ones_like(x))
    return np.ascontiguousarray(x[::2]), np.ascontiguousarray(x[1::2])


@st.composite
def groupings(draw: st.DrawFn, n: int) -> list[tuple[int, int]]:
    """Draw ``(start, stop)`` ranges that cover ``0..n`` without overlap, in any order; some may be empty."""
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    ranges = list(pairwise([0, *cuts, n]))
    seed = draw(_SMALL_SEEDS)
    return [ranges[i] for i in np.random.default_rng(seed).permutation(len(ranges))] if seed else ranges


def weights() -> st.SearchStrategy[tuple[float, float]]:
    """Return a strategy of ``(alpha, gamma)``: equal, simple, odd, far apart, and ``gamma = 0``."""
    simple = [
        (1.0, 1.0),
        (1.0, 0.5),
        (0.5, 1.0),
        (2.0, 1.0),
        (1.0, 4.0),
        (0.1, 1.0),
        (1.0, 0.1),
        (0.3, 0.7),
        (1.0, 100.0),
    ]
    return st.sampled_from([*simple, (1.0, 0.0)])


@st.composite
def _pairs(draw: st.DrawFn, dtype: str, domain: str, long: bool) -> tuple[Array, Array]:
    f, r = _long_values(draw) if long else _short_values(draw)
    if domain == "subnormal":
        return _subnormal(draw, f, r, dtype)
    f_exponent, r_exponent = draw(_exponents(dtype, domain, len(f)))
    kind = FORMATS[dtype]
    f, r = (f * 2.0**f_exponent).astype(kind), (r * 2.0**r_exponent).astype(kind)
    if domain == "conflicting" or (domain == "small" and draw(st.booleans())):
        return _with_sign(f, r, -1)
    if domain == "aligned":
        return (np.copysign(f, r), r) if draw(st.booleans()) and (f * r).any() else _with_sign(f, r, 1)
    if domain == "orthogonal":
        return _orthogonal(draw, f, r)
    if domain == "zeros":
        return _some_zero(draw, f), _some_zero(draw, r)
    if domain == "nearly_parallel":
        return _near(draw, r), r
    return f, r


def _short_values(draw: st.DrawFn) -> tuple[Array, Array]:
    """Draw pairs of multiples of 1/4 up to 4, as a list, which shrinks by dropping elements."""
    drawn = np.array(draw(_SHORT_PAIRS))
    return drawn[:, 0], drawn[:, 1]


def _long_values(draw: st.DrawFn) -> tuple[Array, Array]:
    """Draw normally distributed values up to 4, and some zeros of both signs."""
    random = np.random.default_rng(draw(_SEEDS))
    values = random.normal(size=(2, draw(_LONG_SIZES))).clip(-4, 4)
    for zero in (0.0, -0.0):
        values[random.random(values.shape) < 0.05] = zero
    return values[0], values[1]


@st.composite
def _exponents(draw: st.DrawFn, dtype: str, domain: str, n: int) -> tuple[int, int]:
    """Draw exponents for forget and retain: no sum of n products of numbers up to 4 overflows, and 1/4 stays normal."""
    info = ml_dtypes.finfo(FORMATS[dtype])
    top = (int(math.log2(float(info.max))) - 2 - math.ceil(math.log2(n)) - 4) // 2
    low = int(math.log2(float(info.smallest_normal))) + 2
    if domain == "small":
        least = (low - 2 - int(math.log2(float(info.eps))) + math.ceil(math.log2(n))) // 2
        high = min(top, 0)
        both = max(low, draw(st.integers(min(least, high - 1), high)))
        return min(top, both + draw(st.integers(0, 3))), both
    if domain not in ("strong", "weak"):
        near = st.integers(max(low, -3), min(top, 3))
        return draw(near), draw(near)
    # Far enough apart that the rounding error of one can exceed the other.
    apart = draw(st.integers(1, min(top - low, int(-1.5 * math.log2(float(info.eps))) + 6)))
    small = draw(st.integers(max(low, -apart - 3), min(top - apart, 3)))
    return (small + apart, small) if domain == "strong" else (small, small + apart)


def _with_sign(f: Array, r: Array, sign: int) -> tuple[Array, Array]:
    """Make ``<f, r>`` negative or positive: negate forget if necessary; if ``<f, r>`` is 0, use plus or minus retain."""
    if not r.any():
        r = np.ones_like(r)
    found = reference.dot_sign(f, r)
    if found == 0:
        return (r if sign > 0 else -r), r
    return (f if found == sign else -f), r


def _orthogonal(draw: st.DrawFn, f: Array, r: Array) -> tuple[Array, Array]:
    """Give every product its negative at another place."""
    half = len(f) // 2
    x, y, rest = f[:half], r[:half], np.zeros(len(f) - 2 * half, f.dtype)
    order = np.random.default_rng(draw(_SMALL_SEEDS)).permutation(len(f))
    return np.concatenate([x, y, rest])[order], np.concatenate([y, -x, rest])[order]


def _some_zero(draw: st.DrawFn, x: Array) -> Array:
    chosen = np.random.default_rng(draw(_SMALL_SEEDS)).random(len(x))
    zeros = np.where(chosen < 0.25, np.zeros_like(x), -np.zeros_like(x))
    return np.where(chosen < 0.5, zeros, x)


def _near(draw: st.DrawFn, r: Array) -> Array:
    bits = r.copy().view(f"u{r.itemsize}")
    chosen = np.random.default_rng(draw(_SMALL_SEEDS)).random(len(r)) < draw(_FLIPPED)
    bits[chosen & (r != 0)] ^= 1
    near: Array = bits.view(r.dtype)
    return -near if draw(st.booleans()) else near


def _subnormal(draw: st.DrawFn, f: Array, r: Array, dtype: str) -> tuple[Array, Array]:
    """Turn multiples of 1/4 into multiples of the smallest number, in one gradient or both."""
    tiny = float(ml_dtypes.finfo(FORMATS[dtype]).smallest_subnormal)
    f_tiny, r_tiny = draw(_TINY)
    f, r = (np.round(x * 4) * tiny if small else x for x, small in ((f, f_tiny), (r, r_tiny)))
    f, r = f.astype(FORMATS[dtype]), r.astype(FORMATS[dtype])
    return (-f, r) if draw(st.booleans()) and reference.dot_sign(f, r) > 0 else (f, r)
