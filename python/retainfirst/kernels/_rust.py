"""The Rust kernels, called with the addresses of torch's CPU tensors: no copy, and the interpreter lock is released."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retainfirst.errors import RetainFirstError
from retainfirst.extension import AVAILABLE, rust
from retainfirst.kernels._layout import dense
from retainfirst.kernels._tensors import Tensors

__all__ = ["elementwise_", "guard_", "linear_", "moments", "takes", "takes_all"]

_NAMES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def takes(*tensors: Tensor) -> bool:
    """Whether this backend is there and works on tensors of one shape: the last on the CPU, of one dtype, dense in one order."""
    return AVAILABLE and tensors[-1].is_cpu and dense(*tensors)


def takes_all(forget: Tensors, retain: Tensors) -> bool:
    """Whether one call certainly works on all pairs; quicker than to ask :func:`takes` of each."""
    return (
        AVAILABLE
        and retain.plain
        and forget.plain
        and retain.on_cpu
        and forget.on_cpu
        and not retain.negated
        and not forget.negated
        and len({*retain.dtypes, *forget.dtypes}) == 1
    )


def moments(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> Tensor:
    """Return the table of moments without an update; see :func:`retainfirst.kernels.moments`."""
    return torch.from_numpy(rust.moments(*_addresses(forget, retain)))


def elementwise_(
    fast: str, forget: Sequence[Tensor], retain: Sequence[Tensor], alpha: float, gamma: float, measure: bool = True
) -> Tensor:
    """Write an element-wise update into ``retain``; see :func:`retainfirst.kernels.elementwise_`."""
    try:
        table = rust.elementwise_(fast, *_addresses(forget, retain), alpha, gamma, measure)
    except rust.RustError as error:
        raise RetainFirstError(str(error)) from error
    return torch.from_numpy(table)


def linear_(
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    c_retain: Tensor,
    c_forget: Tensor,
    toward_retain: bool = False,
    measure: bool = True,
) -> Tensor:
    """Write ``c_retain * r + c_forget * f`` into ``retain``; see :func:`retainfirst.kernels.linear_`."""
    try:
        coefficients = c_retain.tolist(), c_forget.tolist()
        table = rust.linear_(*_addresses(forget, retain), *coefficients, toward_retain, measure)
    except rust.RustError as error:
        raise RetainFirstError(str(error)) from error
    return torch.from_numpy(table)


def guard_(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    signs: Sequence[Tensor] | None,
    zeros: bool,
    gradients: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
) -> tuple[Tensor | None, Tensor]:
    """Put back coordinates of a step; see :func:`retainfirst.kernels.guard_`."""
    judged, forget, retain = (Tensors.of(xs or ()).addresses for xs in (signs, *(gradients or ((), ()))))
    table, counts = rust.guard_(*_addresses(before, after), judged, zeros, forget, retain)
    return torch.from_numpy(table) if gradients is not None else None, torch.tensor(counts)


def _addresses(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> tuple[str, list[int], list[int], list[int]]:
    forget, retain = Tensors.of(forget), Tensors.of(retain)
    return _NAMES[retain[0].dtype], forget.addresses, retain.addresses, retain.sizes
