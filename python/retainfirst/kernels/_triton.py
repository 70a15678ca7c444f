"""The Triton kernels: one launch for all GPU tensors of a dtype; the host reads nothing back.

With ``TRITON_INTERPRET=1`` set before Triton is imported, they run on CPU tensors, slowly, so that tests can check their logic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from retainfirst.kernels._passes import add_rows, combine_blocks, guard_blocks
from retainfirst.transfer import send

__all__ = [
    "LAUNCH",
    "NARROW",
    "NARROW_LARGE",
    "WIDE",
    "Launch",
    "elementwise_",
    "guard_",
    "linear_",
    "moments",
    "takes",
]

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
    """Whether this backend can work on tensors of one shape: the last on a GPU, one dtype but float64, all dense in one order."""
    last = tensors[-1]
    on_device = last.is_cuda or (_INTERPRETED and last.device.type == "cpu")
    return on_device and last.dtype in _DTYPES and dense(*tensors)


def moments(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> Tensor:
    """Return the table of moments without an update; see :func:`retainfirst.kernels.moments`."""
    return _run("moments", forget, retain)


def elementwise_(
    fast: str, forget: Sequence[Tensor], retain: Sequence[Tensor], alpha: float, gamma: float, measure: bool = True
) -> Tensor:
    """Write an element-wise update into ``retain``; see :func:`retainfirst.kernels.elementwise_`."""
    return _run(fast, forget, retain, weights=(float(alpha), float(gamma)), measure=measure)


def linear_(
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    c_retain: Tensor,
    c_forget: Tensor,
    toward_retain: bool = False,
    measure: bool = True,
) -> Tensor:
    """Write ``c_retain * r + c_forget * f`` into ``retain``; see :func:`retainfirst.kernels.linear_`."""
    if toward_retain:
        return _eager.linear_(forget, retain, c_retain, c_forget, toward_retain, measure)
    coefficients = c_retain.contiguous(), c_forget.contiguous()
    return _run("linear", forget, retain, coefficients=coefficients, measure=measure)


def guard_(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    signs: Sequence[Tensor] | None,
    zeros: bool,
    gradients: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
) -> tuple[Tensor | None, Tensor]:
    """Put back coordinates of a step; see :func:`retainfirst.kernels.guard_`."""
    plan = _Plan.of([before, after, signs or after, *(gradients or (after, after))])
    kind = {"put_back": signs is not None, "zeros": zeros, "measured": gradients is not None}
    with plan.on_device():
        for skipped, programs, options in plan.launches():
            # Only products for the sums can be fused, and they are exact in float64.
            guard_blocks[(programs,)](plan.table, plan.sums, plan.n, skipped, enable_fp_fusion=True, **kind, **options)
        counts = torch.empty(plan.n, dtype=torch.int64, device=after[0].device)
        result = plan.add_rows(counts)
    return result if gradients is not None else None, counts


def _run(
    formula: str,
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    weights: tuple[float, float] = (0.0, 0.0),
    coefficients: tuple[Tensor, Tensor] | None = None,
    measure: bool = True,
) -> Tensor:
    plan = _Plan.of([forget, retain])
    with plan.on_device():
        for skipped, programs, options in plan.launches():
            combine_blocks[(programs,)](
                plan.table,
                plan.sums,
                *(coefficients or (plan.sums, plan.sums)),
                *weights,
                plan.n,
                skipped,
                formula=formula,
                measured=measure,
                # A fused alpha * r + gamma * f would skip a rounding that other backends make. SAGO adds only products for its
                # sums, which are exact in float64, so that fusing changes the time alone.
                enable_fp_fusion=formula in ("sago", "moments"),
                **options,
            )
        return plan.add_rows() if measure else m.unmeasured(retain)


@dataclass(frozen=True)
class _Plan:
    """Which program works on which part of lists of tensors; see :mod:`retainfirst.kernels._passes`.

    Attributes:
        n: The number of tensors in each list.
        dtype: Theirs.
        launch: The launch parameters.
        table: The kernels' table.
        sums: Room for a row of each program.
        programs: The programs on aligned tensors, which are the first, and the others.
        even: Whether all sizes are multiples of 16.
    """

    n: int
    dtype: torch.dtype
    launch: Launch
    table: Tensor
    sums: Tensor
    programs: tuple[int, int]
    even: bool

    @classmethod
    def of(cls, lists: Sequence[Sequence[Tensor]]) -> _Plan:
        """Make the plan for lists of ``n`` tensors, which must not be empty."""
        first = lists[0]
        launch = LAUNCH or _launch(first)
        host, programs, even = _table(lists, launch.block * launch.steps)
        table = send(torch.from_numpy(host), first[0].device)
        sums = torch.empty(max(sum(programs), 1), 8, dtype=torch.float64, device=table.device)
        return cls(len(first), first[0].dtype, launch, table, sums, programs, even)

    def on_device(self) -> AbstractContextManager[Any]:
        """Return the context in which the kernels are launched."""
        device = self.table.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def launches(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield, of each launch, the programs before it, its programs, and its options."""
        skipped = 0
        for programs, aligned in zip(self.programs, (True, False), strict=True):
            if programs:
                yield skipped, programs, self._options(aligned)
            skipped += programs

    def _options(self, aligned: bool) -> dict[str, Any]:
        launch = self.launch
        return {
            "dtype": _DTYPES[self.dtype],
            "wide": launch.wide,
            "block": launch.block,
            "steps": launch.steps,
            "threads": 32 * launch.warps,
            "vector": 16 // self.dtype.itemsize if aligned else 1,
            "aligned": aligned,
            "even": self.even,
            "num_warps": launch.warps,
        }

    def add_rows(self, counts: Tensor | None = None) -> Tensor:
        """Return the table of moments; write the last column of the sums to ``counts``."""
        result = torch.empty(self.n, len(m.COLUMNS), dtype=torch.float64, device=self.table.device)
        add_rows[(self.n,)](
            self.table,
            self.sums,
            result,
            result if counts is None else counts,
            self.n,
            counted=counts is not None,
            span=self.launch.block * self.launch.steps,
            rows=512,
            num_warps=8,
        )
        return result


def _launch(tensors: Sequence[Tensor]) -> Launch:
    if tensors[0].element_size() > 2:
        return WIDE
    return NARROW_LARGE if sum(x.numel() for x in tensors) >= _MANY else NARROW


def _table(lists: Sequence[Sequence[Tensor]], span: int) -> tuple[NDArray[np.int64], tuple[int, int], bool]:
    """Give each tensor its programs, those of aligned tensors first.

    Returns:
        The table, the numbers of programs on aligned tensors and on others, and whether all sizes are multiples of 16.
    """
    address = np.array([[x.data_ptr() for x in xs] for xs in lists], dtype=np.int64)
    size = np.array([x.numel() for x in lists[0]], dtype=np.int64)
    odd = (np.bitwise_or.reduce(address) & 15) != 0
    order = np.argsort(odd, kind="stable")
    programs = -(-size // span)
    owner = np.repeat(order, programs[order])
    first = np.empty_like(size)
    first[order] = np.cumsum(programs[order]) - programs[order]
    aligned = int(programs[~odd].sum())
    table = np.concatenate([size, first, address.ravel(), owner])
    return table, (aligned, len(owner) - aligned), not (size % 16).any()
