"""Dispatch of tensors to backends: Rust for dense CPU tensors, Triton for dense GPU tensors, eager torch for the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst.kernels import _eager, _rust
from retainfirst.kernels._backend import current_backend, import_triton
from retainfirst.kernels._eager import Formula
from retainfirst.kernels._tensors import Tensors
from retainfirst.transfer import send

__all__ = ["BROUGHT_OVER", "FAST", "Formula", "backend_for", "elementwise_", "kernels_for", "linear_", "moments"]

FAST = ("sum", "sago", "sago_keep_retain")
"""Element-wise formulas that have a Rust and a Triton kernel."""

BROUGHT_OVER = 16 * 2**20
"""Bytes of each list of tensors that are copied from host memory at a time."""


def moments(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> Tensor:
    """Measure pairs of gradients without changing them.

    Args:
        forget: ``n`` forget gradients.
        retain: ``n`` retain gradients, of the same shapes, dtypes and devices.

    Returns:
        Float64 of shape ``[n, 11]`` (:data:`retainfirst.moments.COLUMNS`) on the device of the first; the columns of the
        update are zero.
    """
    return _dispatch(current_backend(), forget, retain, lambda kernels, f, r, _: kernels.moments(f, r))


def elementwise_(
    formula: Formula,
    fast: str | None,
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    alpha: float,
    gamma: float,
    measure: bool = True,
) -> Tensor:
    """Write an element-wise update into ``retain`` and measure it in the same pass.

    Args:
        formula: Makes the update of a forget and a retain gradient in plain torch; 16-bit formats come widened to float32, and
            the result is rounded once to the gradients' dtype.
        fast: The kernel in :data:`FAST` that computes the same bits; None: there is none, and ``formula`` runs everywhere.
        forget: ``n`` forget gradients, left as they are.
        retain: ``n`` retain gradients, overwritten by the update.
        alpha: Weight of retain for the fast kernel, above 0; it rounds it to the dtype (16-bit formats: to float32).
        gamma: Weight of forget, likewise, at least 0.
        measure: False: the table need not be filled; the update has the same bits.

    Returns:
        Float64 of shape ``[n, 11]``.

    Raises:
        RetainFirstError: There is no kernel of that name.
    """
    if fast is not None and fast not in FAST:
        raise RetainFirstError(f"There is no fast kernel {fast!r}, only {', '.join(FAST)}; or name none")

    def work(kernels: ModuleType, f: Sequence[Tensor], r: Sequence[Tensor], _: list[int] | None) -> Tensor:
        made = (
            _eager.elementwise_(formula, f, r, measure)
            if kernels is _eager
            else kernels.elementwise_(fast, f, r, alpha, gamma, measure)
        )
        table: Tensor = made
        return table

    return _dispatch("eager" if fast is None else current_backend(), forget, retain, work)


def linear_(
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    c_retain: Tensor,
    c_forget: Tensor,
    toward_retain: bool = False,
    measure: bool = True,
) -> Tensor:
    """Write ``c_retain * r + c_forget * f`` into ``retain`` and measure it in the same pass.

    Every element is computed in float64 and rounded once to the dtype.

    Args:
        forget: ``n`` forget gradients, left as they are.
        retain: ``n`` retain gradients, overwritten by the update.
        c_retain: Float64 of shape ``[n]``, one coefficient a tensor.
        c_forget: Float64 of shape ``[n]``.
        toward_retain: Round each element in the direction of the sign of its retain gradient, not to nearest, and keep all
            errors on that side: no ``u_i r_i`` is below ``(c_retain r_i + c_forget f_i) r_i`` taken exactly.
        measure: See :func:`elementwise_`.

    Returns:
        Float64 of shape ``[n, 11]``; read only the columns of the update.
    """

    def work(kernels: ModuleType, f: Sequence[Tensor], r: Sequence[Tensor], chosen: list[int] | None) -> Tensor:
        coefficients = c_retain, c_forget
        if chosen is not None:
            on = send(torch.tensor(chosen, device="cpu"), c_retain.device)
            coefficients = c_retain[on], c_forget[on]
        table: Tensor = kernels.linear_(f, r, *(c.to(r[0].device) for c in coefficients), toward_retain, measure)
        return table

    return _dispatch(current_backend(), forget, retain, work)


_Work = Callable[[ModuleType, Sequence[Tensor], Sequence[Tensor], list[int] | None], Tensor]


def _dispatch(backend: str, forget: Sequence[Tensor], retain: Sequence[Tensor], work: _Work) -> Tensor:
    """Run ``work`` once for each backend, dtype and device among the tensors; put the rows back in order.

    ``work`` gets the indices of its tensors, or None if it gets all of them.
    """
    forget, retain = Tensors.of(forget), Tensors.of(retain)
    if backend == "auto" and _rust.takes_all(forget, retain):
        return work(_rust, forget, retain, None)
    if any(f.is_cpu and not r.is_cpu for f, r in zip(forget, retain, strict=True)):
        return _bring_over(backend, forget, retain, work)
    parts: dict[tuple[ModuleType, torch.dtype, torch.device], list[int]] = {}
    for i, (f, r) in enumerate(zip(forget, retain, strict=True)):
        parts.setdefault((kernels_for(backend, f, r), r.dtype, r.device), []).append(i)
    if len(parts) == 1:
        [(kernels, _, _)] = parts
        return work(kernels, forget, retain, None)
    tables, order = [], []
    for (kernels, _, _), chosen in parts.items():
        part = [forget[i] for i in chosen], [retain[i] for i in chosen]
        tables.append(work(kernels, *part, chosen).to(retain[0].device))
        order += chosen
    back = torch.argsort(torch.tensor(order, device="cpu"))
    return torch.cat(tables)[send(back, retain[0].device)]


def kernels_for(backend: str, *tensors: Tensor) -> ModuleType:
    """Return the kernels for tensors of one shape; the last one's device decides."""
    last = tensors[-1]
    if backend == "auto" and _rust.takes(*tensors):
        return _rust
    if backend == "triton" or (backend == "auto" and last.is_cuda):
        triton = import_triton() if backend == "triton" else _triton_on(last.device)
        if triton is not None and triton.takes(*tensors):
            return triton
    return _eager


def backend_for(*tensors: Tensor) -> str:
    """Return the name of the backend that combines tensors of one shape: ``"rust"``, ``"triton"`` or ``"eager"``.

    It is that of the formulas in :data:`FAST` and of the projections; any other formula runs in eager torch.

    Raises:
        RetainFirstError: ``RETAINFIRST_BACKEND`` names an unknown one.
        MissingDependency: It is ``"triton"``, and Triton is not installed.
    """
    return kernels_for(current_backend(), *tensors).__name__.rpartition("._")[2]


@cache
def _triton_on(device: torch.device) -> ModuleType | None:
    """Return the Triton kernels if they run on a device: compiling them needs a C compiler, which some machines lack."""
    try:
        triton, probe = import_triton(), torch.zeros(1, device=device)
        triton.moments([probe], [probe])
    except MissingDependency:
        return None
    except Exception as error:
        warnings.warn(f"retainfirst works without Triton on {device}, as it fails there: {error}", stacklevel=2)
        return None
    return triton


def _bring_over(backend: str, forget: Sequence[Tensor], retain: Sequence[Tensor], work: _Work) -> Tensor:
    """Run ``work`` on forget gradients in host memory; only a few of them are on the device at a time."""
    tables, chosen, size = [], list[int](), 0
    for i, r in enumerate(retain):
        chosen.append(i)
        size += r.nbytes
        if size >= BROUGHT_OVER or i == len(retain) - 1:
            near = [forget[j].to(retain[j].device, non_blocking=True) for j in chosen]
            table = _dispatch(backend, near, [retain[j] for j in chosen], _of(chosen, work))
            tables.append(table.to(retain[0].device))
            chosen, size = [], 0
    return torch.cat(tables)


def _of(part: list[int], work: _Work) -> _Work:
    """Return ``work`` for a part of the tensors, with their indices among all."""
    return lambda kernels, f, r, chosen: work(kernels, f, r, part if chosen is None else [part[i] for i in chosen])
