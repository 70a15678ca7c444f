"""The Triton kernels: one launch for all GPU tensors of a dtype; the host reads nothing back.

With ``TRITON_INTERPRET=1`` set before Triton is imported, they run on CPU tensors, slowly, so that tests can check their logic.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from retainfirst import moments as m
from retainfirst.kernels import _eager
from retainfirst.kernels._layout import dense
from retainfirst.kernels._passes import add_rows, combine_blocks
from retainfirst.transfer import send

__all__ = ["LAUNCH", "NARROW", "NARROW_LARGE", "WIDE", "Launch", "elementwise_", "linear_", "moments", "takes"]

# Not float64: its products are not exact in float64, and its squares leave the range.
_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_INTERPRETED = not isinstance(combine_blocks, triton.JITFunction)


@dataclass(frozen=True)
class Launch:
    """Launch parameters.

    Attributes:
        block: Elements that a program holds at a time; a power of two.
        steps: Blocks a program; its sums are one row of 64 bytes.
        warps: Warps a program.
        wide: The dtype of the sums within a program. In float32 the squares of gradients below 1e-23 are lost.
    """

    block: int
    steps: int
    warps: int
    wide: Any = tl.float64


NARROW, NARROW_LARGE, WIDE = Launch(1024, 16, 4), Launch(1024, 64, 4), Launch(2048, 16, 8)
"""For 16-bit formats, for many 16-bit elements, and for float32; tuned on an H100 (docs/performance.md)."""

LAUNCH: Launch | None = None
"""Overrides these, for experiments."""

# Enough elements to keep every processor of a large GPU busy with long programs, which cost less.
_MANY = 1 << 28


def takes(*tensors: Tensor) -> bool:
    """Whether this backend can work on tensors of one shape: the last on a GPU, no float64, all dense in one order.

    A pending negation is no dense tensor either.
    """
    last = tensors[-1]
    on_device = last.is_cuda or (_INTERPRETED and last.device.type == "cpu")
    return on_device and last.dtype in _DTYPES and dense(*tensors)


def moments(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> Tensor:
    """Return the table of moments without an update; see :func:`retainfirst.kernels.moments`."""
    return _run("moments", forget, retain)


def elementwise_(fast: str, forget: Sequence[Tensor], retain: Sequence[Tensor], alpha: float, gamma: float) -> Tensor:
    """Write an element-wise update into ``retain``; see :func:`retainfirst.kernels.elementwise_`."""
    return _run(fast, forget, retain, weights=(float(alpha), float(gamma)))


def linear_(
    forget: Sequence[Tensor], retain: Sequence[Tensor], c_retain: Tensor, c_forget: Tensor, toward_retain: bool = False
) -> Tensor:
    """Write ``c_retain * r + c_forget * f`` into ``retain``; see :func:`retainfirst.kernels.linear_`."""
    if toward_retain:
        return _eager.linear_(forget, retain, c_retain, c_forget, toward_retain)
    return _run("linear", forget, retain, coefficients=(c_retain.contiguous(), c_forget.contiguous()))


def _run(
    formula: str,
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    weights: tuple[float, float] = (0.0, 0.0),
    coefficients: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    n, device, shape = len(retain), retain[0].device, LAUNCH or _launch(retain)
    span = shape.block * shape.steps
    host, launches, even = _plan(forget, retain, span)
    table = send(torch.from_numpy(host), device)
    sums = torch.empty(max(len(host) - 4 * n, 1), 8, dtype=torch.float64, device=device)
    result = torch.empty(n, len(m.COLUMNS), dtype=torch.float64, device=device)
    on_device: AbstractContextManager[Any] = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with on_device:
        for skipped, programs, aligned in launches:
            combine_blocks[(programs,)](
                table,
                sums,
                *(coefficients or (sums, sums)),
                *weights,
                n,
                skipped,
                formula=formula,
                dtype=_DTYPES[retain[0].dtype],
                wide=shape.wide,
                block=shape.block,
                steps=shape.steps,
                threads=32 * shape.warps,
                vector=16 // retain[0].element_size() if aligned else 1,
                aligned=aligned,
                even=even,
                num_warps=shape.warps,
                # A fused alpha * r + gamma * f would skip a rounding that other backends make. SAGO adds only products for its
                # sums, which are exact in float64, so that fusing changes the time alone.
                enable_fp_fusion=formula in ("sago", "moments"),
            )
        add_rows[(n,)](table, sums, result, n, span=span, rows=512, num_warps=8)
    return result


def _launch(retain: Sequence[Tensor]) -> Launch:
    if retain[0].element_size() > 2:
        return WIDE
    return NARROW_LARGE if sum(r.numel() for r in retain) >= _MANY else NARROW


def _plan(
    forget: Sequence[Tensor], retain: Sequence[Tensor], span: int
) -> tuple[NDArray[np.int64], list[tuple[int, int, bool]], bool]:
    """Give each tensor its programs, those of aligned tensors first.

    Returns:
        The table for :func:`combine_blocks`; launches, as the programs before, the programs, and whether they are aligned; and
        whether all sizes are multiples of 16.
    """
    address = np.array([[x.data_ptr() for x in xs] for xs in (forget, retain)], dtype=np.int64)
    size = np.array([x.numel() for x in retain], dtype=np.int64)
    odd = ((address[0] | address[1]) & 15) != 0
    order = np.argsort(odd, kind="stable")
    programs = -(-size // span)
    owner = np.repeat(order, programs[order])
    first = np.empty_like(size)
    first[order] = np.cumsum(programs[order]) - programs[order]
    before = int(programs[~odd].sum())
    launches = [(0, before, True), (before, len(owner) - before, False)]
    table = np.concatenate([address[0], address[1], size, first, owner])
    return table, [one for one in launches if one[1]], not (size % 16).any()
