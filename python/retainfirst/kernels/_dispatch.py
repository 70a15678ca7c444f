"""Which backend works on which tensors.

Rust on dense CPU tensors, Triton on dense GPU tensors, torch.compile on those of other devices and where Triton does not run,
eager torch on the rest.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from types import ModuleType

import torch
from torch import Tensor

from retainfirst.errors import MissingDependency, RetainFirstError, did_you_mean
from retainfirst.kernels import _compile, _eager, _rust
from retainfirst.kernels._tensors import Tensors
from retainfirst.transfer import send

__all__ = ["BACKENDS", "elementwise_", "linear_", "moments", "use_backend"]

BACKENDS = ("auto", "eager")
"""Those that need no compiler."""

_NAMES = (*BACKENDS, "compile", "triton")
# Bytes of forget gradients that are brought over from host memory at a time.
_BROUGHT_OVER = 16 * 2**20
_backend = os.environ.get("RETAINFIRST_BACKEND", "auto")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend for the calls inside the block, over the ``RETAINFIRST_BACKEND`` environment variable.

    Args:
        name: ``"auto"`` (Rust on the CPU and Triton on a GPU where they can; on other devices, and on a GPU on which Triton does
            not run, as ``"compile"``; else eager torch), ``"eager"`` (plain torch everywhere), ``"compile"`` (torch.compile on
            dense tensors of every device on which it works, which on the CPU takes a C++ compiler, else eager torch) or
            ``"triton"`` (Triton where it can, under ``TRITON_INTERPRET=1`` on the CPU too, else eager torch; the interpreter is
            for tests, and cuts bfloat16 off where all others round it).

    Raises:
        RetainFirstError: The name is unknown.
        MissingDependency: ``"triton"``, and Triton is not installed.
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
    forget, retain = Tensors.of(forget), Tensors.of(retain)
    if {*retain.dtypes} - {torch.float64}:
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

    def work(kernels: ModuleType, f: Sequence[Tensor], r: Sequence[Tensor], chosen: list[int] | None) -> Tensor:
        coefficients = c_retain, c_forget
        if chosen is not None:
            on = send(torch.tensor(chosen, device="cpu"), c_retain.device)
            coefficients = c_retain[on], c_forget[on]
        table: Tensor = kernels.linear_(f, r, *(c.to(r[0].device) for c in coefficients), toward_retain)
        return table

    return _dispatch(forget, retain, work)


_Work = Callable[[ModuleType, Sequence[Tensor], Sequence[Tensor], list[int] | None], Tensor]


def _dispatch(forget: Sequence[Tensor], retain: Sequence[Tensor], work: _Work) -> Tensor:
    """Run ``work`` once for each backend, dtype and device among the tensors; put the rows back in order.

    ``work`` is told which tensors it is given, unless these are all.
    """
    forget, retain = Tensors.of(forget), Tensors.of(retain)
    backend = _check_backend()
    if backend == "auto" and _rust.takes_all(forget, retain):
        return work(_rust, forget, retain, None)
    if any(f.is_cpu and not r.is_cpu for f, r in zip(forget, retain, strict=True)):
        return _bring_over(forget, retain, work)
    parts: dict[tuple[ModuleType, torch.dtype, torch.device], list[int]] = {}
    for i, (f, r) in enumerate(zip(forget, retain, strict=True)):
        parts.setdefault((_kernels(backend, f, r), r.dtype, r.device), []).append(i)
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


def _kernels(backend: str, forget: Tensor, retain: Tensor) -> ModuleType:
    if backend == "auto" and _rust.takes(forget, retain):
        return _rust
    if backend == "triton" or (backend == "auto" and retain.is_cuda):
        triton = _triton() if backend == "triton" else _triton_on(retain.device)
        if triton is not None:
            return triton if triton.takes(forget, retain) else _eager
    # What Rust leaves on the CPU is not dense, which torch.compile is not given either; and meta tensors hold nothing.
    compiles = backend == "compile" or (backend == "auto" and not retain.is_cpu and not retain.is_meta)
    return _compile if compiles and _compile.takes(forget, retain) else _eager


@cache
def _triton_on(device: torch.device) -> ModuleType | None:
    """Return the Triton kernels if they run on a device: compiling them needs a C compiler, which not every machine has."""
    try:
        triton, probe = _triton(), torch.zeros(1, device=device)
        triton.moments([probe], [probe])
    except MissingDependency:
        return None
    except Exception as error:
        warnings.warn(f"retainfirst works without Triton on {device}, as it fails there: {error}", stacklevel=2)
        return None
    return triton


def _triton() -> ModuleType:
    # Not at the top: importing Triton takes its time, and few CPU machines have it.
    try:
        from retainfirst.kernels import _triton
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "The backend 'triton' needs Triton, which is not installed. Install it with: pip install triton"
        ) from error
    return _triton


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
    return lambda kernels, f, r, chosen: work(kernels, f, r, part if chosen is None else [part[i] for i in chosen])


@lru_cache(maxsize=16)  # of a weight that passes; rounding it by torch takes as long as many small tensors
def _check_rounded(name: str, weight: float) -> None:
    rounded = torch.tensor(weight, dtype=torch.float32, device="cpu").item()
    if not math.isfinite(rounded) or (rounded == 0) != (weight == 0):
        raise RetainFirstError(f"{name}={weight!r} becomes {rounded} in float32; choose a weight that float32 can hold")


def _check_backend() -> str:
    if _backend not in _NAMES:
        raise RetainFirstError(f"Unknown backend {_backend!r}. {did_you_mean(_backend, _NAMES)}")
    if _backend == "triton":
        _triton()
    return _backend
