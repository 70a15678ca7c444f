"""Updates in plain torch, for every layout, device and formula that has no faster kernel.

The host reads no value back, so that a step queues its work and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.kernels._layout import in_memory_order
from retainfirst.kernels._toward import add_toward
from retainfirst.transfer import send

__all__ = ["CHUNK", "Formula", "elementwise_", "guard_", "linear_", "moments"]

Formula = Callable[[Tensor, Tensor], Tensor]
"""From a forget and a retain gradient to the update, element by element."""

# Elements that are widened to float64 at a time: bounds the scratch memory at a few tens of MiB.
CHUNK = 1 << 21

_Piece = Callable[..., Tensor]


def moments(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> Tensor:
    """Return the table of moments without an update; see :func:`retainfirst.kernels.moments`."""
    return _over_pieces(None, forget, retain, [()] * len(retain))


def elementwise_(formula: Formula, forget: Sequence[Tensor], retain: Sequence[Tensor], measure: bool = True) -> Tensor:
    """Write a formula's update into ``retain``; see :func:`retainfirst.kernels.elementwise_`."""
    return _over_pieces(partial(_elementwise, formula), forget, retain, [()] * len(retain), measure)


def linear_(
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    c_retain: Tensor,
    c_forget: Tensor,
    toward_retain: bool = False,
    measure: bool = True,
) -> Tensor:
    """Write ``c_retain * r + c_forget * f`` into ``retain``; see :func:`retainfirst.kernels.linear_`."""
    coefficients = zip(c_retain, c_forget, strict=True)
    return _over_pieces(partial(_linear, toward_retain), forget, retain, coefficients, measure)


def guard_(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    signs: Sequence[Tensor] | None,
    zeros: bool,
    gradients: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
) -> tuple[Tensor | None, Tensor]:
    """Put back coordinates of a step; see :func:`retainfirst.kernels.guard_`."""
    counts = torch.zeros(len(after), dtype=torch.int64, device=after[0].device)
    rows: list[list[Tensor]] = [[] for _ in after]
    lists = [before, after, *([signs] if signs is not None else []), *(gradients or ())]
    for i, tensors in enumerate(zip(*lists, strict=True)):
        for b, a, *others in _pieces(*tensors):
            if signs is not None:
                counts[i] += _put_back(b, a, others.pop(0), zeros)
            if gradients is not None:
                rows[i].append(_row_of_step(b, a, *others))
    return _per_tensor(rows) if gradients is not None else None, counts


def _put_back(before: Tensor, after: Tensor, sign: Tensor, zeros: bool) -> Tensor:
    # NaN compares as false, and so is never put back.
    up, down = after > before, after < before
    put = (up & (sign > 0)) | (down & (sign < 0))
    if zeros:
        put |= (up | down) & (sign == 0)
    after.copy_(torch.where(put, before, after))
    return put.sum()


def _row_of_step(before: Tensor, after: Tensor, forget: Tensor, retain: Tensor) -> Tensor:
    """Return the row in which the step backwards stands for the forget gradient, and the forget gradient for the update."""
    wide = torch.promote_types(before.dtype, torch.float32)
    row = _row(before.to(wide) - after.to(wide), retain, forget)
    row[m.UR] = 0.0
    return row


def _over_pieces(
    work: _Piece | None,
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    coefficients: Iterable[tuple[Any, ...]],
    measure: bool = True,
) -> Tensor:
    """Work piece by piece.

    Args:
        work: Makes the update of a piece of a pair; None: there is no update.
        forget: ``n`` forget gradients.
        retain: ``n`` retain gradients, overwritten if there is an update.
        coefficients: Further arguments of ``work``, one tuple a tensor.
        measure: Whether to fill the table.

    Returns:
        Shape ``[n, 11]``.
    """
    rows: list[list[Tensor]] = []
    for f, r, chosen in zip(forget, retain, coefficients, strict=True):
        rows.append([])
        for part in _pieces(f, r):
            u = work(*part, *chosen) if work is not None else None
            if measure:
                rows[-1].append(_row(part[0], part[1], u))
            if u is not None:
                part[1].copy_(u)
    return _per_tensor(rows) if measure else m.unmeasured(retain)


def _elementwise(formula: Formula, f: Tensor, r: Tensor) -> Tensor:
    # 16-bit formats are computed in float32 and rounded once at the end; the others in their own dtype.
    narrow = f.dtype in (torch.float16, torch.bfloat16)
    return (formula(f.float(), r.float()) if narrow else formula(f, r)).to(r.dtype)


def _linear(toward_retain: bool, f: Tensor, r: Tensor, c_retain: Tensor, c_forget: Tensor) -> Tensor:
    kept, taken = c_retain * r.to(c_retain.dtype), c_forget * f.to(c_forget.dtype)
    return add_toward(kept, taken, r) if toward_retain else (kept + taken).to(r.dtype)


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors of one shape into the same pieces, which are views."""
    tensors = in_memory_order(*tensors)
    if all(x.is_contiguous() for x in tensors):
        return zip(*(torch.split(x.view(-1), CHUNK) for x in tensors), strict=True)
    first = tensors[0]
    if first.dim() == 0:
        return iter([tensors])
    rows = max(1, CHUNK * first.shape[0] // max(first.numel(), 1))
    return zip(*(torch.split(x, rows) for x in tensors), strict=True)


def _row(f: Tensor, r: Tensor, u: Tensor | None) -> Tensor:
    """Return one row of moments, shape ``[11]``, float64 (float32 where the device has no float64)."""
    conflicts = (((f < 0) & (r > 0)) | ((f > 0) & (r < 0))).sum()
    zero = torch.zeros((), dtype=m.sum_dtype(f.device), device=f.device)
    (f, ef), (r, er) = _scaled(f), _scaled(r)
    u, eu = (None, zero) if u is None else _scaled(u)
    uu, ur, uf = (zero, zero, zero) if u is None else (u.dot(u), u.dot(r), u.dot(f))
    count = torch.full_like(zero, f.numel())
    return torch.stack([f.dot(f), r.dot(r), f.dot(r), conflicts.to(zero.dtype), count, ef, er, uu, ur, uf, eu])


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten and widen; scale float64 by a power of two if its squares would leave the format's range."""
    wide = x.reshape(-1).to(m.sum_dtype(x.device))
    if x.dtype != torch.float64 or x.numel() == 0:
        return wide, torch.zeros((), dtype=wide.dtype, device=x.device)
    largest = wide.abs().amax()
    exponent = torch.frexp(largest).exponent.to(wide.dtype)
    outside = (exponent.abs() > 400) & (largest > 0) & largest.isfinite()
    exponent = torch.where(outside, exponent, 0.0)
    half = torch.exp2(-torch.floor(exponent / 2))
    return wide * half * torch.exp2(-exponent + torch.floor(exponent / 2)), exponent


def _per_tensor(rows: list[list[Tensor]]) -> Tensor:
    flat = torch.stack([row for pieces in rows for row in pieces])
    if len(flat) == len(rows):
        return flat
    owner = [i for i, pieces in enumerate(rows) for _ in pieces]
    return m.reduce_rows(flat, send(torch.tensor(owner, device="cpu"), flat.device), len(rows))
