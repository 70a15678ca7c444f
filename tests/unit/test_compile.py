"""torch.compile against eager torch: equal updates to the bit, sums as near as two orders of addition are; and who takes over.

On the device of ``RETAINFIRST_TEST_DEVICE``. Compiling takes some seconds for each rule and dtype.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from functools import cache

import pytest
import torch
from torch import Tensor

import retainfirst as rf
from raw_bits import same_bits
from retainfirst import kernels
from retainfirst import moments as m
from retainfirst.kernels import _compile, _dispatch, _eager
from written_out import DTYPES, ELEMENTWISE, gradients

SIZES = (0, 1, 2, 3, 7, 8, 15, 16, 17, 33, 63, 64, 65, 500, 501, 999, 1000, 1001, 4100)
COMPILER = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
compiles = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def setting(default_device, monkeypatch):
    """Small pieces; and nothing is compiled twice, whatever its size, layout, place and weights."""
    monkeypatch.setattr(_eager, "CHUNK", 1000)
    # Threads that have a few elements each would mostly wait for one another on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch.set_num_threads(threads)


def pairs(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """All sizes; views of other shapes and of one buffer; every pair of special values; subnormals; all that is not dense."""
    info = torch.finfo(dtype)
    values = [0.0, 1.0, info.max, info.tiny, info.tiny * info.eps, math.inf, math.nan]
    special = torch.tensor(values + [-x for x in values], dtype=torch.float64).to(dtype)
    forget, retain = [special.repeat(len(special))], [special.repeat_interleave(len(special))]
    for n in SIZES:
        for x, xs in zip(gradients(n + 1, dtype, seed=n), (forget, retain), strict=True):
            xs += [x[:n].clone(), x[1:]]
    for scale in (info.tiny, info.tiny * info.eps * 8, math.sqrt(info.tiny), math.sqrt(info.max), info.max / 8):
        for x, xs in zip(gradients(77, torch.float64, seed=5), (forget, retain), strict=True):
            xs.append((x * scale).to(dtype))
    for x, xs in zip(gradients(24, dtype, seed=6), (forget, retain), strict=True):
        a, b, c = x.repeat(3, 1)
        xs += [a.view(6, 4).t(), b.view(6, 4)[:, ::2], torch._neg_view(c), x[3]]
    both = torch.cat(gradients(600, dtype, seed=7))
    return [*forget, both[:600]], [*retain, both[600:]]


def run(work: str, forget: list[Tensor], retain: list[Tensor], weights: tuple[float, float]) -> Tensor:
    if work == "moments":
        return kernels.moments(forget, retain)
    if work in ELEMENTWISE:
        return kernels.elementwise_(work, forget, retain, *weights)
    on = torch.linspace(0.5, 1.5, len(retain), dtype=torch.float64)
    return kernels.linear_(forget, retain, on * weights[0], -on * weights[1], work == "toward_retain")


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Two sums of n products differ by at most 2n units of the sum of the absolute products, which |x| |y| bounds."""
    for column, (a, b) in {m.FF: (m.FF,) * 2, m.RR: (m.RR,) * 2, m.UU: (m.UU,) * 2, m.FR: (m.FF, m.RR), m.UR: (m.UU, m.RR),
                           m.UF: (m.UU, m.FF)}.items():  # fmt: skip
        bound = 2 * (expected[:, m.COUNT] + 1) * 2.0**-53 * (expected[:, a].sqrt() * expected[:, b].sqrt())
        x, y = found[:, column], expected[:, column]
        near = ((x - y).abs() <= bound) | (x == y) | (x.isnan() & y.isnan())
        assert near.all(), (m.COLUMNS[column], near.logical_not().nonzero().tolist())
    assert torch.equal(found[:, m.CONFLICTS :], expected[:, m.CONFLICTS :])


@compiles
@pytest.mark.filterwarnings("error:retainfirst works")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("work", _eager.PIECES)
def test_the_bits_and_sums_of_eager_torch(work, dtype):
    for weights in ((0.3, 0.7), (1.0, 0.0), (1.0, 1e-3)):
        forget, retain = pairs(dtype)
        expected = [x.clone() for x in retain]
        with kernels.use_backend("eager"):
            table = run(work, forget, expected, weights)
        with kernels.use_backend("compile"):
            found = run(work, forget, retain, weights)
        for i, (a, b) in enumerate(zip(retain, expected, strict=True)):
            assert same_bits(a.resolve_neg(), b.resolve_neg()), (i, a, b)
        assert_near(found, table)


@compiles
def test_what_must_be_compiled_again_is_general_too():
    first, views = [gradients(12, torch.float32)[i].view(3, 4)[:2] for i in range(2)], pairs(torch.float32)
    with torch.enable_grad(), kernels.use_backend("compile"):
        with torch._dynamo.config.patch(error_on_recompile=False):
            kernels.elementwise_("sum", first[:1], first[1:], 1.0, 1.0)
        kernels.elementwise_("sum", *views, 0.3, 0.7)


@compiles
def test_what_it_takes():
    x = torch.ones(4, 6)
    for other, kernel in ((x, _compile), (x.t(), _compile), (x[:, ::2], _eager), (torch._neg_view(x), _eager)):
        assert _dispatch._kernels("compile", other, other.clone(memory_format=torch.preserve_format)) is kernel
        if x.is_cpu:
            assert _dispatch._kernels("auto", other, other) in (_dispatch._rust, _eager)


def test_what_comes_after_triton(monkeypatch):
    monkeypatch.setattr(_dispatch, "_triton_on", lambda _: None)

    class OnGPU(Tensor):
        is_cpu, is_cuda = False, True

    for x, kernel in ((torch.ones(4, device="meta"), _eager), (torch.ones(4).as_subclass(OnGPU), _compile)):
        assert _dispatch._kernels("auto", x, x) is kernel


def fails(piece, **_):
    raise RuntimeError("no C++ compiler\nand a graph of many lines")


def rounds_otherwise(piece, **_):
    return lambda f, r, alpha, gamma: ((alpha * r).to(r.dtype) + gamma * f, piece(f, r, alpha, gamma)[1])


@pytest.mark.parametrize(
    ("compiler", "reason"), [(fails, "no C.. compiler"), (rounds_otherwise, "rounds differently than eager torch")]
)
def test_eager_torch_takes_over(compiler, reason, monkeypatch, recwarn):
    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(_compile, "_compiled", cache(_compile._compiled.__wrapped__))
    f, r = gradients(50, torch.bfloat16)
    with kernels.use_backend("compile"):
        with pytest.warns(UserWarning, match=f"plain torch on {f.device}, as torch.compile fails there: .*{reason}$"):
            found = rf.combine(f, r, "sum", alpha=0.3, gamma=0.7)
        recwarn.clear()
        assert same_bits(found, rf.combine(f, r, "sum", alpha=0.3, gamma=0.7))
        assert not recwarn.list, "it is said once"
    with kernels.use_backend("eager"):
        assert same_bits(found, rf.combine(f, r, "sum", alpha=0.3, gamma=0.7))
