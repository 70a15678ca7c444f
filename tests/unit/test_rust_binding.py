"""The binding: updates, measurements, and errors, after which nothing is written."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from retainfirst import _rust

TORCH_DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
COLUMN = {name: i for i, name in enumerate(_rust.COLUMNS)}
LENGTHS = [1500, 0, 7, 70_000]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def draw(dtype: torch.dtype, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator, dtype=torch.float64).to(dtype) for n in LENGTHS]


def addresses(tensors: list[torch.Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def assert_measured(row: np.ndarray, left: torch.Tensor, right: torch.Tensor, column: str, dtype: torch.dtype) -> None:
    products = left.double() * right.double()
    exact = math.fsum(products.tolist())
    # This test rounds each product of float64, with the same bound as an addition of the core.
    bound = (len(left) + 32) * 2.0**-53 * products.abs().sum().item()
    assert abs(row[COLUMN[column]] - exact) <= bound, (column, dtype)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_moments_of_tensors(dtype: torch.dtype) -> None:
    f, r = draw(dtype, 0), draw(dtype, 1)
    table = _rust.moments(name_of(dtype), addresses(f), addresses(r), LENGTHS)
    assert table.shape == (4, 11)
    assert table.dtype == np.float64
    for row, x, y in zip(table, f, r, strict=True):
        assert_measured(row, x, x, "ff", dtype)
        assert_measured(row, y, y, "rr", dtype)
        assert_measured(row, x, y, "fr", dtype)
        assert row[COLUMN["conflicts"]] == (x.sign() * y.sign() < 0).sum()
        assert row[COLUMN["count"]] == len(x)
        assert not row[[COLUMN[c] for c in ("uu", "ur", "uf", "ef", "er", "eu")]].any()


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_elementwise_writes_into_the_tensors(dtype: torch.dtype) -> None:
    f, r = draw(dtype, 0), draw(dtype, 1)
    before = [x.clone() for x in f + r]
    table = _rust.elementwise_("sago", name_of(dtype), addresses(f), addresses(r), LENGTHS, 1.0, 0.5)
    measured = _rust.moments(name_of(dtype), addresses(f), addresses(before[4:]), LENGTHS)
    for i, (x, y, u) in enumerate(zip(before[:4], before[4:], r, strict=True)):
        assert torch.equal(x, f[i])
        # Halving is exact, so that the weights cause no rounding.
        assert torch.equal(u, torch.where(x.sign() * y.sign() < 0, y, x / 2))
        for column, pair in {"uu": (u, u), "ur": (u, y), "uf": (u, x)}.items():
            assert_measured(table[i], *pair, column, dtype)
    pair_columns = [COLUMN[c] for c in ("ff", "rr", "fr", "conflicts", "count")]
    assert (table[:, pair_columns] == measured[:, pair_columns]).all()


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_linear_rounds_once(dtype: torch.dtype) -> None:
    f, r = draw(dtype, 0), draw(dtype, 1)
    before = [x.clone() for x in r]
    c_retain, c_forget = [1.3, 1.0, -0.2, 2.5], [-0.7, 1.0, 1.9, 0.0]
    table = _rust.linear_(name_of(dtype), addresses(f), addresses(r), LENGTHS, c_retain, c_forget)
    for i, (x, y, u) in enumerate(zip(f, before, r, strict=True)):
        wide = c_retain[i] * y.double() + c_forget[i] * x.double()
        # torch, numpy and ml_dtypes round float64 to 16 bits by way of float32, so that they cannot give the expected bits. One
        # rounding has an error of at most half a unit in the last place; the Rust tests compare the bits.
        unit = torch.finfo(dtype).eps / 2 if dtype != torch.float64 else 0.0
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        assert ((u.double() - wide).abs() <= unit * wide.abs() + (smallest if unit else 0.0)).all()
        for column, pair in {"uu": (u, u), "ur": (u, y), "uf": (u, x)}.items():
            assert_measured(table[i], *pair, column, dtype)
    assert table[:, COLUMN["count"]].tolist() == LENGTHS
    assert not table[:, [COLUMN[c] for c in ("ff", "rr", "fr", "conflicts", "ef", "er", "eu")]].any()


def test_extremes_come_with_exponents() -> None:
    f, r = torch.tensor([-1e-300, 1e-301], dtype=torch.float64), torch.tensor([1e300, 0.0], dtype=torch.float64)
    [row] = _rust.moments("float64", [f.data_ptr()], [r.data_ptr()], [2])
    assert row[COLUMN["ef"]] == math.frexp(1e-300)[1] - 1
    assert row[COLUMN["er"]] == math.frexp(1e300)[1] - 1
    # The exponents of the two factors cancel.
    fr = math.ldexp(row[COLUMN["fr"]], int(row[COLUMN["ef"]] + row[COLUMN["er"]]))
    assert fr == pytest.approx(-1.0, rel=1e-15)
    update = r.clone()
    [applied] = _rust.linear_("float64", [f.data_ptr()], [update.data_ptr()], [2], [1.0], [1.0])
    assert (applied[[COLUMN["ef"], COLUMN["er"]]] == row[[COLUMN["ef"], COLUMN["er"]]]).all()


def test_only_forget_tensors_may_overlap_each_other() -> None:
    f, r = torch.ones(8), torch.ones(16)
    a, b = r.data_ptr(), r[8:].data_ptr()
    _rust.elementwise_("sum", "float32", [f.data_ptr()] * 2, [a, b], [8, 8], 1.0, 1.0)
    assert r.tolist() == [2.0] * 16
    for forget, retain, text in [
        ([f.data_ptr()] * 2, [a, a], r"retain\[0\] overlaps retain\[1\]"),
        ([f.data_ptr()] * 2, [a, b - 4], r"retain\[0\] overlaps retain\[1\]"),
        ([f.data_ptr(), b], [a, b], r"forget\[1\] overlaps retain\[1\]"),
        ([f.data_ptr(), a + 28], [a, b], r"overlaps"),
    ]:
        with pytest.raises(_rust.RustError, match=text):
            _rust.elementwise_("sum", "float32", forget, retain, [8, 8], 1.0, 1.0)
        with pytest.raises(_rust.RustError, match=text):
            _rust.linear_("float32", forget, retain, [8, 8], [1.0] * 2, [1.0] * 2)
    assert r.tolist() == [2.0] * 16
    # A long forget tensor can reach past a short one that starts later in memory.
    whole = torch.zeros(32)
    start = whole.data_ptr()
    with pytest.raises(_rust.RustError, match=r"forget\[0\] overlaps retain\[0\]"):
        _rust.linear_("float32", [start, start + 4], [start + 64, r.data_ptr()], [17, 1], [1.0] * 2, [1.0] * 2)
    # `moments` writes nothing, so that all its tensors may overlap.
    assert _rust.moments("float32", [a], [a], [8])[0, COLUMN["fr"]] == 32.0


def test_nothing_may_overlap_the_parameters_after_a_step() -> None:
    memory = torch.ones(16)
    a, b = memory.data_ptr(), memory[8:].data_ptr()
    for lists, text in [
        (([a], [a], [b], [b], [b]), r"before\[0\] overlaps after\[0\]|after\[0\] overlaps before\[0\]"),
        (([b], [a], [a + 4], [b], [b]), r"after\[0\] overlaps signs\[0\]"),
        (([b], [a], [b], [a + 28], [b]), r"after\[0\] overlaps forget\[0\]"),
        (([b], [a], [b], [b], [a + 28]), r"after\[0\] overlaps retain\[0\]"),
    ]:
        before, after, signs, forget, retain = lists
        with pytest.raises(_rust.RustError, match=text):
            _rust.guard_("float32", before, after, [8], signs, True, forget, retain)
    # What is only read may overlap.
    _, counts = _rust.guard_("float32", [b], [a], [8], [b], True, [b], [b])
    assert counts == [0]
    assert memory.tolist() == [1.0] * 16


def guarded(**lists: list[int]) -> object:
    """Call ``guard_`` with one tensor of four elements, but for some lists."""
    given = {name: [OTHER] for name in ("before", "signs", "forget", "retain")} | {"after": [ADDRESS], "lengths": [4]}
    given |= lists
    order = [given[name] for name in ("before", "after", "lengths", "signs")]
    return _rust.guard_("float32", *order, False, given["forget"], given["retain"])


TENSOR, SECOND = torch.ones(4), torch.zeros(4)
ADDRESS, OTHER = TENSOR.data_ptr(), SECOND.data_ptr()
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "dtype": (lambda: _rust.moments("float8", [ADDRESS], [ADDRESS], [4]), 'dtype: "float8" is not one of float64'),
    "combiner": (
        lambda: _rust.elementwise_("sagoo", "float32", [0], [ADDRESS], [0], 1.0, 1.0),
        'combiner: "sagoo" is not one of sum, pcgrad',
    ),
    "combiner of groups": (
        lambda: _rust.elementwise_("pcgrad", "float32", [0], [ADDRESS], [0], 1.0, 1.0),
        'combiner: "pcgrad" is not one of sum, sago, sago_keep_retain',
    ),
    "retain entries": (lambda: _rust.moments("float32", [ADDRESS], [], [4]), "retain: 0 entries, but forget has 1"),
    "lengths entries": (lambda: _rust.moments("float32", [ADDRESS], [ADDRESS], [4, 4]), "lengths: 2 entries"),
    "coefficients": (
        lambda: _rust.linear_("float32", [ADDRESS], [ADDRESS], [4], [1.0], []),
        "c_forget: 0 values for 1 forget tensors",
    ),
    "null": (lambda: _rust.moments("float32", [0], [ADDRESS], [4]), r"forget\[0\]: null address for 4 elements"),
    "alignment": (
        lambda: _rust.moments("float32", [ADDRESS], [ADDRESS + 2], [1]),
        r"retain\[0\]: address 0x[0-9a-f]+ is not a multiple of 4",
    ),
    "length": (lambda: _rust.moments("float32", [ADDRESS], [ADDRESS], [2**62]), r"lengths\[0\]: .*address space"),
    "alpha": (
        lambda: _rust.elementwise_("sum", "bfloat16", [0], [0], [0], 1e-50, 1.0),
        "alpha: 1e-50 is 0 in float32; it must be finite and above 0",
    ),
    "gamma": (
        lambda: _rust.elementwise_("sum", "float32", [0], [0], [0], 1.0, math.nan),
        "gamma: NaN is NaN in float32; it must be finite and 0 or above",
    ),
    "threads": (lambda: _rust.set_num_threads(0), "n: 0 threads"),
    "guard dtype": (lambda: _rust.guard_("int8", [], [], [], [], False, [], []), 'dtype: "int8" is not one of float64'),
    "guard alignment": (lambda: guarded(signs=[OTHER + 2]), r"signs\[0\]: address 0x[0-9a-f]+ is not a multiple of 4"),
    "guard length": (lambda: guarded(lengths=[2**62]), r"lengths\[0\]: .*address space"),
    "guard retain alone": (lambda: guarded(forget=[]), "retain: 1 entries, but forget has 0; give both to measure"),
    "guard forget alone": (lambda: guarded(retain=[]), "retain: 0 entries, but lengths has 1"),
    **{
        f"guard {name} entries": (
            lambda name=name: guarded(**{name: [OTHER] * 2}),
            f"{name}: 2 entries, but lengths has 1",
        )
        for name in ("before", "after", "signs", "forget", "retain")
    },
    **{
        f"guard {name} null": (lambda name=name: guarded(**{name: [0]}), rf"{name}\[0\]: null address for 4 elements")
        for name in ("before", "after", "signs", "forget", "retain")
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_argument(case: str) -> None:
    call, text = REFUSED[case]
    with pytest.raises(_rust.RustError, match=text):
        call()
    assert TENSOR.tolist() == [1.0] * 4


def test_empty_tensors_need_no_address() -> None:
    table = _rust.elementwise_("sum", "float32", [0, ADDRESS], [0, 0], [0, 0], 1.0, 1.0)
    assert not table.any()
    assert _rust.moments("float16", [], [], []).shape == (0, 11)


def combined(forget: Any, retain: Any, groups: list[tuple[int, int]] | None = None) -> object:
    return _rust.combine_("sum", forget, retain, 1.0, 1.0, [(0, 4)] if groups is None else groups)


def read_only() -> np.ndarray:
    array = np.ones(4, np.float32)
    array.flags.writeable = False
    return array


FOUR = np.ones(4, np.float32)
REFUSED_ARRAYS: dict[str, tuple[Callable[[], object], str]] = {
    "dtype": (lambda: combined(np.ones(4, np.int32), np.ones(4, np.int32)), 'dtype: "int32" is not one of'),
    "other dtype": (lambda: combined(FOUR, np.ones(4)), "retain: dtype float64, but float32 is needed"),
    "byte order": (lambda: combined(np.ones(4, ">f4"), np.ones(4, np.float32)), "forget: dtype >f4, but float32"),
    "dimensions": (lambda: combined(FOUR, np.ones((2, 2), np.float32)), "retain: 2 dimensions"),
    "contiguity": (lambda: combined(FOUR, np.ones(8, np.float32)[::2]), "retain: not contiguous"),
    "alignment": (
        lambda: combined(FOUR, np.zeros(17, np.uint8)[1:].view(np.float32)),
        "retain: not aligned",
    ),
    "length": (lambda: combined(FOUR, np.ones(5, np.float32)), "retain: length 5, but forget has 4"),
    "read-only": (lambda: combined(FOUR, read_only()), "retain: read-only"),
    "overlap": (lambda: combined(*(lambda x: (x[:4], x[2:6]))(np.ones(8, np.float32))), "retain: shares memory"),
    "group below zero": (lambda: combined(FOUR, FOUR.copy(), [(-1, 4)]), r"groups: \(-1, 4\) does not lie within"),
    "group too far": (lambda: combined(FOUR, FOUR.copy(), [(0, 5)]), r"groups: \(0, 5\) does not lie within .* 0\.\.4"),
    "groups overlap": (lambda: combined(FOUR, FOUR.copy(), [(2, 4), (0, 3)]), r"groups: \(0, 3\) overlaps \(2, 4\)"),
    "groups gap": (lambda: combined(FOUR, FOUR.copy(), [(3, 4), (0, 2)]), r"covers the elements \(2, 3\)"),
    "geometry": (lambda: _rust.geometry(FOUR, FOUR, np.ones(3, np.float32), [(0, 4)]), "update: length 3"),
}


@pytest.mark.parametrize("case", REFUSED_ARRAYS)
def test_refused_arrays(case: str) -> None:
    call, text = REFUSED_ARRAYS[case]
    with pytest.raises(_rust.RustError, match=text):
        call()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_in_place_and_new_array_agree(dtype: Any) -> None:
    random = np.random.default_rng(3)
    f, r = random.normal(size=5000).astype(dtype), random.normal(size=5000).astype(dtype)
    groups = [(3000, 5000), (0, 3000)]
    for combiner in ("sum", "pcgrad", "sago", "sago_keep_retain", "blur"):
        update, table = _rust.combine(combiner, f, r, 0.7, 1.3, groups)
        target = r.copy()
        assert _rust.combine_(combiner, f, target, 0.7, 1.3, groups).tobytes() == table.tobytes()
        assert target.tobytes() == update.tobytes()
        assert update.dtype == dtype
        assert _rust.geometry(f, r, update, groups).tobytes() == table.tobytes()


def test_results_do_not_depend_on_threads() -> None:
    before = _rust.get_num_threads()
    f, r = np.random.default_rng(5).normal(size=(2, 400_000)).astype(np.float32)
    try:
        results = set()
        for n in (1, 2, 3):
            _rust.set_num_threads(n)
            assert _rust.get_num_threads() == n
            update, table = _rust.combine("pcgrad", f, r, 1.0, 1.0, [(0, len(f))])
            results.add(update.tobytes() + table.tobytes())
        assert len(results) == 1
    finally:
        _rust.set_num_threads(before)


def test_the_interpreter_lock_is_released() -> None:
    x = torch.rand(1_000_000, dtype=torch.float64)
    ready, ran = threading.Event(), threading.Event()

    def other() -> None:
        ready.wait()
        ran.set()

    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    # With this interval the interpreter does not switch threads by itself: the other one runs only if the lock is released.
    sys.setswitchinterval(1000.0)
    try:
        thread.start()
        ready.set()
        for _ in range(1000):
            _rust.moments("float64", [x.data_ptr()], [x.data_ptr()], [len(x)])
            if ran.is_set():
                break
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    f = np.ones(400_000, np.float32)
    _rust.geometry(f, f, f, [(0, len(f))])  # starts the parent's threads
    child = os.fork()
    if child == 0:
        table = _rust.geometry(f, f, f, [(0, len(f))])
        os._exit(0 if table[0, 0] == len(f) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
