"""The Python binding of the check of all 16-bit pairs. Rust tests the check itself, with kernels that are wrong on purpose."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

from retainfirst import _rust

RULES = ("sago", "sago_keep_retain")
INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", INFINITY)
def test_the_kernels_pass_and_pairs_are_counted(dtype: str, rule: str) -> None:
    infinity = INFINITY[dtype]
    # One row, which is too little for threads; then rows below and above infinity.
    for start, stop, finite_rows in [
        (0x3C00, 0x3C01, 1),
        (infinity - 6, infinity + 4, 6),
        (0xFFF0, 0x10000, 0),
        (7, 7, 0),
    ]:
        finite, other, violation = _rust.exhaustive(rule, dtype, 0.7, 1.3, start, stop)
        assert finite == finite_rows * 2 * infinity
        assert finite + other == (stop - start) * 65536
        assert violation is None


def check(rule: str = "sago", dtype: str = "float16", alpha: float = 1.0, gamma: float = 1.0, stop: int = 1) -> object:
    return _rust.exhaustive(rule, dtype, alpha, gamma, 0, stop)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "rule": (lambda: check(rule="sagoo"), 'combiner: "sagoo" is not one of sum, pcgrad'),
    "another rule": (lambda: check(rule="sum"), 'combiner: "sum" is not one of sago, sago_keep_retain'),
    "dtype": (lambda: check(dtype="float32"), 'dtype: "float32" is not one of float16, bfloat16'),
    "alpha": (lambda: check(alpha=0.0, stop=0), "alpha: 0e0 is 0 in float32; it must be finite and above 0"),
    "gamma": (lambda: check(gamma=-1.0), "gamma: -1e0 is -1 in float32; it must be finite and 0 or above"),
    "stop": (lambda: check(stop=65537), r"retain: \(0, 65537\) does not lie within 0\.\.65536"),
    "below zero": (lambda: check(stop=-1), r"retain: \(0, -1\) does not lie within 0\.\.65536"),
    "huge": (lambda: check(stop=2**40), r"retain: \(0, 1099511627776\) does not lie within 0\.\.65536"),
    "backwards": (
        lambda: _rust.exhaustive("sago", "float16", 1.0, 1.0, 2, 1),
        r"retain: \(2, 1\) does not lie within 0\.\.65536",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_argument(case: str) -> None:
    call, text = REFUSED[case]
    with pytest.raises(_rust.RustError, match=text):
        call()


def test_other_threads_run_during_the_check() -> None:
    ready, ran = threading.Event(), threading.Event()

    def other() -> None:
        ready.wait()
        ran.set()

    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    # The interpreter does not switch threads now, so that the other thread runs only if the check releases the lock.
    sys.setswitchinterval(1000.0)
    try:
        thread.start()
        ready.set()
        for start in range(0, 65536, 64):
            _rust.exhaustive("sago", "float16", 1.0, 1.0, start, start + 64)
            if ran.is_set():
                break
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
