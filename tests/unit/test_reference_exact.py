"""The exact oracle against rational arithmetic, on the two counterexamples of the theory, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import retainfirst as rf
from oracle import exact_dot, fractions
from retainfirst import _rust, reference
from retainfirst.errors import DtypeMismatch, RetainFirstError, ShapeMismatch

Array = NDArray[Any]
BFLOAT16 = ml_dtypes.bfloat16
DTYPES = [np.float64, np.float32, np.float16, BFLOAT16]
BITS = {8: np.uint64, 4: np.uint32, 2: np.uint16}


def sign(x: Fraction) -> int:
    return (x > 0) - (x < 0)


def cosine_squared(x: Array, y: Array) -> Fraction:
    """The square of the cosine, with the sign of the cosine."""
    product = exact_dot(x, y)
    return sign(product) * product**2 / (exact_dot(x, x) * exact_dot(y, y))


@st.composite
def vectors(draw: st.DrawFn, dtype: Any, count: int) -> list[Array]:
    """Arrays of one length, 1 to 200: raw bits, with all exponents, subnormals and both zeros; or small integers."""
    n = draw(st.one_of(st.integers(1, 8), st.integers(1, 200)))
    size = np.dtype(dtype).itemsize
    found = []
    for _ in range(count):
        bits = np.frombuffer(draw(st.binary(min_size=n * size, max_size=n * size)), BITS[size])
        small = draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))
        chosen = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        x = np.where(chosen, bits.view(dtype), np.array(small).astype(dtype))
        with np.errstate(invalid="ignore"):  # ml_dtypes warns about NaN
            found.append(np.where(np.isfinite(x), x, np.ones_like(x)))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_dot_and_its_sign_are_those_of_rational_arithmetic(dtype: Any) -> None:
    @settings(max_examples=60, deadline=None, database=None)
    @given(vectors(dtype, 2))
    def check(pair: list[Array]) -> None:
        x, y = pair
        assert reference.dot(x, y) == exact_dot(x, y)
        assert reference.dot_sign(x, y) == sign(exact_dot(x, y))
        # Every product occurs with both signs, so that the sum is 0; then the smallest product of the format decides.
        left, right = np.concatenate([x, y]), np.concatenate([y, -x])
        assert reference.dot_sign(left, right) == 0
        tiny = np.array([1], BITS[x.itemsize]).view(dtype)
        left, right = np.concatenate([tiny, left]), np.concatenate([-tiny, right])
        assert reference.dot_sign(left, right) == -1
        assert reference.dot(left, right) == -(fractions(tiny)[0] ** 2)

    check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_cosines_compare_as_in_rational_arithmetic(dtype: Any) -> None:
    @settings(max_examples=60, deadline=None, database=None)
    @given(vectors(dtype, 3), st.integers(0, 199))
    def check(triple: list[Array], i: int) -> None:
        first, second, retain = (np.where((x != 0).any(), x, np.ones_like(x)) for x in triple)
        expected = sign(cosine_squared(first, retain) - cosine_squared(second, retain))
        assert reference.compare_cosines(first, second, retain) == expected
        assert reference.compare_cosines(second, first, retain) == -expected
        # Nearly parallel: one last bit apart.
        near = first.copy()
        near.view(BITS[near.itemsize])[i % len(near)] ^= 1
        if (near != 0).any():
            expected = sign(1 - cosine_squared(near, first))
            assert reference.compare_cosines(first, near, first) == expected

    check()


def test_the_library_shows_that_sago_can_be_looser_than_pcgrad() -> None:
    retain, forget = np.array([1.0, 1.0]), np.array([1 / 100, -2 / 100])
    sago, pcgrad = (reference.combine(forget, retain, name) for name in ("sago", "pcgrad"))
    assert reference.dot_sign(forget, retain) == -1
    assert reference.compare_cosines(sago, pcgrad, retain) == -1
    # The stored 1/100 and 2/100, and PCGrad's update, are rounded by 2**-53, and so are the squares.
    assert abs(cosine_squared(sago, retain) - Fraction(10201, 20002)) < Fraction(1, 10**15)
    assert abs(cosine_squared(pcgrad, retain) - Fraction(40000, 40009)) < Fraction(1, 10**15)
    # The same with torch; sago_keep_retain is the tightest of the three.
    tensors = torch.from_numpy(forget), torch.from_numpy(retain)
    looser, tighter, tightest = (rf.combine(*tensors, name).numpy() for name in ("sago", "pcgrad", "sago_keep_retain"))
    assert reference.compare_cosines(looser, tighter, retain) == -1
    assert reference.compare_cosines(tightest, looser, retain) == 1


def test_pcgrad_opposes_retention_once_rounded_to_bfloat16_and_sago_does_not() -> None:
    random = np.random.default_rng(7)
    conflicting, opposed = 0, {"pcgrad": 0, "sago": 0, "sago_keep_retain": 0}
    for _ in range(200):
        f, r = (random.normal(size=256) * 1e4).astype(BFLOAT16), random.normal(size=256).astype(BFLOAT16)
        if reference.dot_sign(f, r) < 0:
            conflicting += 1
            for name in opposed:
                opposed[name] += reference.dot_sign(reference.combine(f, r, name), r) < 0
    assert conflicting > 50
    assert opposed["pcgrad"] > 0
    assert opposed["sago"] == opposed["sago_keep_retain"] == 0


def test_subnormals_count_where_the_processor_flushes_them() -> None:
    tiny = np.array([1, 1], np.uint32).view(np.float32)
    try:
        torch.set_flush_denormal(True)
        assert reference.dot_sign(tiny, np.array([1.0, -0.5], np.float32)) == 1
        assert reference.dot(tiny, np.array([1.0, -0.5], np.float32)) == Fraction(1, 2**150)
        assert reference.compare_cosines(tiny, np.ones(2, np.float32), tiny) == 0
    finally:
        torch.set_flush_denormal(False)


ONE, NAN, INFINITE = np.ones(3), np.array([1.0, np.nan, np.nan]), np.array([1.0, 1.0, -np.inf])
REFUSED: dict[str, tuple[Callable[[], object], type[RetainFirstError], str]] = {
    "nan": (lambda: reference.dot_sign(NAN, INFINITE), RetainFirstError, r"update\[1\]: NaN"),
    "infinity": (lambda: reference.dot_sign(ONE, INFINITE), RetainFirstError, r"retain\[2\]: infinity"),
    "dot nan": (lambda: reference.dot(NAN, INFINITE), RetainFirstError, r"update\[1\]: NaN"),
    "dot infinity": (lambda: reference.dot(ONE, INFINITE), RetainFirstError, r"retain\[2\]: infinity"),
    "second": (lambda: reference.compare_cosines(ONE, NAN, ONE), RetainFirstError, r"second\[1\]: NaN"),
    "zero first": (lambda: reference.compare_cosines(0 * ONE, ONE, ONE), RetainFirstError, "first: a zero vector"),
    "zero retain": (lambda: reference.compare_cosines(ONE, ONE, -0.0 * ONE), RetainFirstError, "retain: a zero vector"),
    "empty": (lambda: reference.compare_cosines(ONE[:0], ONE[:0], ONE[:0]), RetainFirstError, "first: a zero vector"),
    "length": (lambda: reference.dot_sign(ONE, ONE[1:]), ShapeMismatch, "retain: length 2, but update has 3"),
    "dot length": (lambda: reference.dot(ONE, ONE[1:]), ShapeMismatch, "retain: length 2, but update has 3"),
    "dimensions": (lambda: reference.dot_sign(ONE.reshape(1, 3), ONE), ShapeMismatch, "update: 2 dimensions"),
    "dtype": (
        lambda: reference.compare_cosines(ONE, ONE, ONE.astype(np.float32)),
        DtypeMismatch,
        "retain: dtype float32, but first has float64",
    ),
    "integers": (lambda: reference.dot_sign(ONE.astype(int), ONE.astype(int)), DtypeMismatch, "int64 is not one of"),
    "dot dtype": (
        lambda: reference.dot(ONE, ONE.astype(np.float32)),
        DtypeMismatch,
        "retain: dtype float32, but update has float64",
    ),
    "dot contiguity": (lambda: reference.dot(ONE, np.ones(6)[::2]), RetainFirstError, "retain: not contiguous"),
    "contiguity": (lambda: reference.dot_sign(np.ones(6)[::2], ONE), RetainFirstError, "update: not contiguous"),
    "byte order": (
        lambda: reference.dot_sign(ONE.astype(">f8"), ONE.astype(">f8")),
        RetainFirstError,
        "update: dtype >f8, but float64 is needed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_argument(case: str) -> None:
    call, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_empty_dot_product_is_zero_and_the_binding_checks_for_itself(dtype: Any) -> None:
    one = np.ones(3, dtype)
    assert reference.dot(one[:0], one[:0]) == reference.dot(one, -np.zeros(3, dtype)) == 0
    assert isinstance(reference.dot(one, one), Fraction)
    assert reference.dot_sign(one[:0], one[:0]) == 0
    assert reference.dot_sign(one, -np.zeros(3, dtype)) == 0
    with pytest.raises(_rust.RustError, match="retain: length 2, but update has 3"):
        _rust.dot_sign(one, one[1:])
    with pytest.raises(_rust.RustError, match="retain: length 2, but update has 3"):
        _rust.dot(one, one[1:])
    with pytest.raises(_rust.RustError, match="second: dtype .*, as the first array has"):
        _rust.compare_cosines(one, np.ones(3, np.int8), one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_nothing(dtype: Any) -> None:
    before = _rust.get_num_threads()
    x, y = np.random.default_rng(3).normal(size=(2, 150_000)).astype(dtype)
    left, right = np.concatenate([x, y]), np.concatenate([y, -x])
    # Nothing is rounded, so the sum of the parts is the whole.
    whole = sum((reference.dot(x[i : i + 7000], y[i : i + 7000]) for i in range(0, len(x), 7000)), Fraction())
    doubled = np.concatenate([x, x]), np.concatenate([y, y])
    try:
        for n in (1, 2, 3):
            _rust.set_num_threads(n)
            assert reference.dot(*doubled) == 2 * whole
            assert reference.dot_sign(left, right) == 0
            assert reference.compare_cosines(left, -left, right) == 0
            assert reference.compare_cosines(left, right, right) == -1
    finally:
        _rust.set_num_threads(before)
