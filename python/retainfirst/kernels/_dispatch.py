"""Which backend works on which tensors: Rust for dense CPU tensors, eager torch for the rest."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.kernels import _eager, _rust

__all__ = ["BACKENDS", "elementwise_", "linear_", "moments", "use_backend"]

BACKENDS = ("auto", "eager")
# Bytes of forget gradients that are brought over from host memory at a time.
_BROUGHT_OVER = 64 * 2**20
_backend = os.environ.get("RETAINFIRST_BACKEND", "auto")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend for the calls inside the block, over the ``RETAINFIRST_BACKEND`` environment variable.

    Args:
        name: ``"auto"`` (Rust where it can, else eager torch) or ``"eager"`` (plain torch everywhere).

    Raises:
        RetainFirstError: The name is unknown.
    """
    global _backend
    before, _backend = _backend, name
    try:
        _check_backend()
        yield
    finally:
        _backend = before


def moments(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> Tensor:
    """Measure pairs of gradients without changing them.

    Args:
        forget: ``n`` forget gradients.
        retain: ``n`` retain gradients, of the same shapes, dtypes and devices.

    Returns:
        Float64 of shape ``[n, 11]`` (:data:`retainfirst.moments.COLUMNS`) on the device of the first; the columns of the
        update are zero.
    """
    return _dispatch(forget, retain, lambda kernels, f, r, _: kernels.moments(f, r))


def elementwise_(rule: str, forget: Sequence[Tensor], retain: Sequence[Tensor], alpha: float, gamma: float) -> Tensor:
    """Write the update of an element-wise rule into ``retain`` and measure it in the same pass.

    Args:
        rule: ``"sum"``, ``"sago"`` or ``"sago_keep_retain"``.
        forget: ``n`` forget gradients, left as they are.
        retain: ``n`` retain gradients, overwritten by the update.
        alpha: Weight of retain, above 0; rounded to the dtype (to float32 for 16-bit formats) before use.
        gamma: Weight of forget, at least 0; rounded likewise.

    Returns:
        Float64 of shape ``[n, 11]``.

    Raises:
        RetainFirstError: A weight that is not zero becomes zero or infinite in the format that it is rounded to.
    """
    if any(r.dtype != torch.float64 for r in retain):
        _check_rounded("alpha", alpha)
        _check_rounded("gamma", gamma)
    return _dispatch(forget, retain, lambda kernels, f, r, _: kernels.elementwise_(rule, f, r, alpha, gamma))


def linear_(
    forget: Sequence[Tensor], retain: Sequence[Tensor], c_retain: Tensor, c_forget: Tensor, toward_retain: bool = False
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

    Returns:
        Float64 of shape ``[n, 11]``; of its columns only those of the update are meant to be read.
    """

    def work(kernels: ModuleType, f: Sequence[Tensor], r: Sequence[Tensor], chosen: Tensor) -> Tensor:
        on = chosen.to(c_retain.device)
        coefficients = c_retain[on].to(r[0].device), c_forget[on].to(r[0].device)
        table: Tensor = kernels.linear_(f, r, *coefficients, toward_retain)
        return table

    return _dispatch(forget, retain, work)


_Work = Callable[[ModuleType, Sequence[Tensor], Sequence[Tensor], Tensor], Tensor]


def _dispatch(forget: Sequence[Tensor], retain: Sequence[Tensor], work: _Work) -> Tensor:
    """Run ``work`` once for each backend, dtype and device among the tensors; put the rows back in order."""
    if any(f.device != r.device for f, r in zip(forget, retain, strict=True)):
        return _bring_over(forget, retain, work)
    parts: dict[tuple[bool, torch.dtype, torch.device], list[int]] = {}
    eager_only = _check_backend() == "eager"
    for i, (f, r) in enumerate(zip(forget, retain, strict=True)):
        key = (not eager_only and _rust.takes(f, r), r.dtype, r.device)
        parts.setdefault(key, []).append(i)
    if len(parts) == 1:
        [(in_rust, _, _)] = parts
        return work(_rust if in_rust else _eager, forget, retain, torch.arange(len(retain)))
    tables, order = [], []
    for (in_rust, _, _), chosen in parts.items():
        part = [forget[i] for i in chosen], [retain[i] for i in chosen]
        tables.append(work(_rust if in_rust else _eager, *part, torch.tensor(chosen)).to(retain[0].device))
        order += chosen
    return torch.cat(tables)[torch.argsort(torch.tensor(order)).to(retain[0].device)]


def _bring_over(forget: Sequence[Tensor], retain: Sequence[Tensor], work: _Work) -> Tensor:
    """Run ``work`` on forget gradients that wait in host memory: a few of them are on the device at a time."""
    tables, chosen, size = [], list[int](), 0
    for i, r in enumerate(retain):
        chosen.append(i)
        size += r.nbytes
        if size >= _BROUGHT_OVER or i == len(retain) - 1:
            near = [forget[j].to(retain[j].device, non_blocking=True) for j in chosen]
            tables.append(_dispatch(near, [retain[j] for j in chosen], _of(chosen, work)).to(retain[0].device))
            chosen, size = [], 0
    return torch.cat(tables)


def _of(part: list[int], work: _Work) -> _Work:
    """Return ``work`` on a part of the tensors, told their places among all."""
    places = torch.tensor(part)
    return lambda kernels, f, r, chosen: work(kernels, f, r, places[chosen])


def _check_rounded(name: str, weight: float) -> None:
    rounded = torch.tensor(weight, dtype=torch.float32).item()
    if not math.isfinite(rounded) or (rounded == 0) != (weight == 0):
        raise RetainFirstError(f"{name}={weight!r} becomes {rounded} in float32; choose a weight that float32 can hold")


def _check_backend() -> str:
    if _backend not in BACKENDS:
        raise RetainFirstError(f"Unknown backend {_backend!r}. {did_you_mean(_backend, BACKENDS)}")
    return _backend
