"""The guard's kernels in eager torch and in Rust, against the definition written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from oracle import BITS, DTYPES, gradients
from retainfirst import _rust, kernels
from retainfirst import moments as m

BACKENDS = ("auto", "eager")
SUMS = {"ff": "dd", "rr": "rr", "fr": "dr", "uu": "ff", "uf": "fd"}


def put_back(before: Tensor, after: Tensor, signs: Tensor, zeros: bool) -> Tensor:
    """Where the definition puts a coordinate back; NaN nowhere. Float64 holds all numbers."""
    b, a, s = (x.double() for x in (before, after, signs))
    put = ((a > b) & (s > 0)) | ((a < b) & (s < 0))
    if zeros:
        put |= (s == 0) & (a != b) & ~a.isnan() & ~b.isnan()
    return put


def bits(x: Tensor) -> Tensor:
    """The stored bits in logical order: NaN must not be changed either."""
    return x.resolve_neg().contiguous().view(BITS[x.dtype])


def step(n: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Before, after, signs, forget and retain; every third coordinate does not move, and some signs are zero."""
    (b, s), (f, r) = (gradients(n, dtype, seed + i) for i in range(2))
    return [b, torch.where(torch.arange(n) % 3 == 0, b, b + s.roll(1)), s, f, r]


def assert_guarded(lists: list[list[Tensor]], zeros: bool = False, backend: str = "auto") -> None:
    """Put back and measured: what the definition puts back and no other bit, its number, and the table."""
    before, after, signs, forget, retain = lists
    places = [put_back(b, a, s, zeros) for b, a, s in zip(before, after, signs, strict=True)]
    expected = [torch.where(put, b, a) for put, b, a in zip(places, before, after, strict=True)]
    others = [bits(x) for xs in (before, signs, forget, retain) for x in xs]
    with kernels.use_backend(backend):
        table, counts = kernels.guard_(before, after, signs=signs, zeros=zeros, gradients=(forget, retain))
    for i, (a, e) in enumerate(zip(after, expected, strict=True)):
        assert torch.equal(bits(a), bits(e)), i
    assert all(map(torch.equal, others, [bits(x) for xs in (before, signs, forget, retain) for x in xs]))
    assert counts.tolist() == [int(put.sum()) for put in places]
    assert table is not None
    for row, b, a, f, r in zip(table, before, after, forget, retain, strict=True):
        assert_measured(row, b, a, f, r)


def assert_measured(row: Tensor, before: Tensor, after: Tensor, forget: Tensor, retain: Tensor) -> None:
    """The sums of finite steps are those of exact products, within float64's rounding of n additions and of each product."""
    wide = torch.promote_types(before.dtype, torch.float32)
    d = (before.to(wide) - after.to(wide)).double().flatten()
    vectors = {"d": d, "f": forget.double().flatten(), "r": retain.double().flatten()}
    assert row[m.COUNT] == d.numel()
    assert row[m.UR] == 0
    assert row[m.CONFLICTS] == (d.sign() * vectors["r"].sign() < 0).sum()
    if not all(x.isfinite().all() for x in vectors.values()):
        return
    for column, (x, y) in SUMS.items():
        products = vectors[x] * vectors[y]
        bound = (len(products) + 32) * 2.0**-53 * products.abs().sum().item()
        found = row[m.COLUMNS.index(column)].item()
        assert abs(found - math.fsum(products.tolist())) <= bound, column


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_triple_of_special_values(dtype, zeros, backend):
    info = torch.finfo(dtype)
    values = [0.0, info.smallest_normal * info.eps, info.tiny, 1.0, 1.0 + info.eps, info.max, math.inf, math.nan]
    special = torch.tensor(values, dtype=torch.float64).to(dtype)
    special = torch.cat([special, -special])
    before, after, signs = (x.contiguous() for x in torch.cartesian_prod(special, special, special).unbind(1))
    assert len(put_back(before, after, signs, zeros).unique()) == 2
    assert_guarded([[before], [after], [signs], [before.flip(0)], [signs]], zeros, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_and_shapes(dtype, backend):
    """No elements, one, a scalar, the steps of the loops, and their borders."""
    lists = [list(xs) for xs in zip(*(step(n, dtype, n) for n in (0, 1, 31, 33, 5000)), strict=True)]
    for xs in lists:
        xs += [xs[1][0].clone(), xs[4].view(50, 4, 25).clone()]
    for zeros in (False, True):
        assert_guarded([[x.clone() for x in xs] for xs in lists], zeros, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts(backend):
    """Dense in any order, with gaps, in different orders, and with a negation pending: other memory stays as it is."""
    base = torch.randn(5, 4, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    layouts = {
        "transposed": lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
        "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
        "negation pending": lambda x: torch._neg_view(-x),
    }
    for kind, lay in layouts.items():
        lists = [[lay(x)] for x in base]
        if kind == "negation pending":
            lists[1] = [base[1].clone()]
        whole = lists[1][0]._base.clone() if kind == "strided" else None
        assert_guarded(lists, backend=backend)
        if whole is not None:
            assert torch.equal(lists[1][0]._base[..., 1::2], whole[..., 1::2]), "the gaps"
    mixed = [[x.transpose(0, 1).contiguous().transpose(0, 1) if i % 2 else x.clone()] for i, x in enumerate(base)]
    assert_guarded(mixed, backend=backend)


def test_dtypes_mixed_among_tensors_and_within_a_step():
    """Tensors of several dtypes keep their order; a gradient may have another dtype than its parameter."""
    lists = [list(xs) for xs in zip(*(step(40, dtype, i) for i, dtype in enumerate((*DTYPES, *DTYPES))), strict=True)]
    assert_guarded(lists)
    before, after, *gradient = step(40, torch.bfloat16)
    assert_guarded([[before], [after], *([x.float()] for x in gradient)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("signed", "measured"), [*itertools.product([False, True], repeat=2)])
def test_each_half_of_the_work_alone(signed, measured, backend):
    [before, after, signs, forget, retain] = [[x] for x in step(100, torch.float32)]
    kept = after[0].clone()
    with kernels.use_backend(backend):
        table, counts = kernels.guard_(
            before, after, signs=signs if signed else None, gradients=(forget, retain) if measured else None
        )
    put = put_back(before[0], kept, signs[0], False) & signed
    assert torch.equal(after[0], torch.where(put, before[0], kept))
    assert counts.tolist() == [int(put.sum())]
    assert (table is not None) == measured
    if measured:
        assert_measured(table[0], before[0], after[0], forget[0], retain[0])


def test_the_threads_change_no_bit():
    before, after, signs, forget, retain = step(600_000, torch.float32)
    number, results = _rust.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            _rust.set_num_threads(threads)
            guarded = after.clone()
            table, counts = kernels.guard_([before], [guarded], signs=[signs], gradients=([forget], [retain]))
            results.add((guarded.numpy().tobytes(), table.numpy().tobytes(), *counts.tolist()))
    finally:
        _rust.set_num_threads(number)
    assert len(results) == 1
