"""Checks of the combiners on a GPU: their updates' bits, no waiting for the GPU, and a tensor beyond the range of int32."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import retainfirst as rf
from retainfirst import kernels
from retainfirst.kernels import _dispatch
from retainfirst_lab.studies.gpu_setting import CASES, DTYPES, ELEMENTWISE, Setting, dtype_name, make

__all__ = ["check", "huge", "sync"]

Row = dict[str, Any]
Pair = tuple[list[Tensor], list[Tensor]]

_BITS = {
    torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16,
}  # fmt: skip


def check(setting: Setting) -> list[Row]:
    """Compare every combiner and dtype with the CPU; the kernel of projections also with the same coefficients."""
    rows = [_check_case(setting, dtype, name) for dtype, name in itertools.product((*DTYPES, torch.float64), CASES)]
    return rows + [_check_linear(setting, dtype) for dtype in DTYPES]


def _check_case(setting: Setting, dtype: torch.dtype, name: str) -> Row:
    sets = [_mixed_tensors(dtype, setting.scale), *([_special_tensors(dtype)] if name in ELEMENTWISE else [])]
    updates: list[list[Tensor]] = []
    geometries = []
    for where in (torch.device("cpu"), setting.device):
        combiner = make(name)
        updates.append([])
        for i, (forget, retain) in enumerate(sets):
            f, r = ([_unalign(x.to(where), j) for j, x in enumerate(xs)] for xs in (forget, retain))
            geometry = combiner.combine_(f, r)
            updates[-1] += [x.cpu() for x in r]
            if i == 0:
                geometries.append(geometry.as_dict())
    error = max(abs(geometries[0][key] - value) / abs(value or 1.0) for key, value in geometries[1].items())
    return {
        "combiner": name,
        "dtype": dtype_name(dtype),
        **_compare(*updates),
        "geometry_error": error,
        "backend": _dispatch.kernels_for("auto", f[0], r[0]).__name__.rpartition(".")[2],
        "must_be_equal": name in ELEMENTWISE,
    }


def _check_linear(setting: Setting, dtype: torch.dtype) -> Row:
    forget, retain = _mixed_tensors(dtype, setting.scale)
    coefficients = torch.randn(2, len(retain), dtype=torch.float64)
    results = []
    for where in (torch.device("cpu"), setting.device, setting.device):
        f, r = [x.to(where) for x in forget], [x.to(where).clone() for x in retain]
        table = kernels.linear_(f, r, *coefficients.to(where))
        results.append(([x.cpu() for x in r], table.cpu()))
    return {
        "combiner": "linear_, equal coefficients",
        "dtype": dtype_name(dtype),
        **_compare(results[0][0], results[1][0]),
        "same_sums_twice": torch.equal(results[1][1], results[2][1]),
        "must_be_equal": True,
    }


def _mixed_tensors(dtype: torch.dtype, scale: float) -> Pair:
    """40 pairs of all kinds of sizes; a third of them are tiny gradients."""
    sizes = [0, 1, 2, 7, 15, 16, 17, 2047, 2048, 2049, 32767, 32768, 32769]
    sizes += [int(x) for x in torch.randint(1, 200_000, (40 - len(sizes),))]
    sizes = [max(1, int(n * scale)) if scale < 1 and n > 3000 else n for n in sizes]
    forget, retain = ([torch.randn(n, dtype=torch.float64) for n in sizes] for _ in range(2))
    for i in range(0, 40, 3):
        smallest = 1e-6 if dtype == torch.float16 else 1e-25
        forget[i], retain[i] = forget[i] * smallest, retain[i] * smallest
    return [x.to(dtype) for x in forget], [x.to(dtype) for x in retain]


def _special_tensors(dtype: torch.dtype) -> Pair:
    """Every pair of special values."""
    info = torch.finfo(dtype)
    values = [0.0, 1.0, info.max, info.tiny, info.tiny * info.eps, float("inf"), float("nan")]
    special = torch.tensor(values + [-x for x in values], dtype=torch.float64).to(dtype)
    return [special.repeat(len(special))], [special.repeat_interleave(len(special))]


def _unalign(x: Tensor, i: int) -> Tensor:
    """Return a copy; every fourth one begins one element after an aligned address."""
    return torch.cat([x.new_zeros(1), x])[1:] if i % 4 == 3 else x.clone()


def _compare(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Row:
    """Count elements with different bits (all NaN are equal), and find the largest distance in units in the last place."""
    differing, most, total, first = 0, 0, 0, None
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        total += a.numel()
        kind = _BITS[a.dtype]
        bad = (a.view(kind) != b.view(kind)) & ~(a.isnan() & b.isnan())
        if bad.any():
            place = int(bad.nonzero()[0])
            first = first or f"tensor {i}, element {place}: {b[place].item()!r}, should be {a[place].item()!r}"
            differing += int(bad.sum())
            most = max(most, int((_ordered(a[bad]) - _ordered(b[bad])).abs().max()))
    return {"elements": total, "differing": differing, "most_ulp": most, "first": first}


def _ordered(x: Tensor) -> Tensor:
    """Map floats to integers in the same order, one step for each unit in the last place."""
    bits = x.view(_BITS[x.dtype]).long()
    return torch.where(bits < 0, -(bits & (2 ** (torch.finfo(x.dtype).bits - 1) - 1)), bits)


def sync(setting: Setting) -> dict[str, str]:
    """Check that no combiner, at any scope, waits for the GPU."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(20)]).to(setting.device, torch.bfloat16)
    scoped = {f"pcgrad {scope}": rf.PCGrad(0.5, 0.5, scope=scope) for scope in ("module", "block")}
    combiners = {name: make(name) for name in CASES} | scoped
    return {name: _waits(setting, model, combiner) for name, combiner in combiners.items()}


def _waits(setting: Setting, model: nn.Module, combiner: rf.Combiner) -> str:
    step = rf.TwoTaskStep(model, combiner)
    found = ""
    for attempt in range(2):  # the first one may compile kernels
        x = torch.randn(8, 64, device=setting.device, dtype=torch.bfloat16)
        with step.forget():
            (-model(x).square().mean()).backward()
        with step.retain():
            model(x + 1).square().mean().backward()
        if attempt and setting.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            step.combine()
            found = "no wait"
        except Exception:
            traceback.print_exc()
            found = "waits"
        finally:
            if setting.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
        model.zero_grad()
    return found


def huge(setting: Setting) -> dict[str, Any]:
    """Combine one tensor with more elements than an int32 can count, and compare its ends with plain torch."""
    n = int((2**31 + 5000) * setting.scale)
    f, r = (torch.randn(n, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    parts = [slice(0, n // 20), slice(n - n // 20, n)]
    before = [(f[part].clone(), r[part].clone()) for part in parts]
    geometry = rf.SAGO(0.3, 0.7).combine_([f], [r])
    found: dict[str, Any] = {
        f"part {i}": _compare([_sago(*pair, 0.3, 0.7)], [r[part]])
        for i, (pair, part) in enumerate(zip(before, parts, strict=True))
    }
    found["norm_forget_relative_error"] = abs(geometry.norm_forget / n**0.5 - 1)
    return found


def _sago(f: Tensor, r: Tensor, alpha: float, gamma: float) -> Tensor:
    f, r, dtype = f.float(), r.float(), r.dtype
    return torch.where(torch.sign(f) * torch.sign(r) < 0, alpha * r, gamma * f).to(dtype)
