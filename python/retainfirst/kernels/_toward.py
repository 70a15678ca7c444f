"""Addition with every rounding error on one side, in plain torch; bit for bit what the Rust kernel does."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_toward"]

_BITS = {torch.float64: torch.int64, torch.float32: torch.int32}
_EXPONENT = {torch.float64: 0x7FF << 52, torch.float32: 0xFF << 23}


def add_toward(kept: Tensor, taken: Tensor, direction: Tensor) -> Tensor:
    """Add two rounded products, and round in the direction of the sign of a third tensor, to its dtype.

    Times ``direction``, no element is below the sum of the unrounded products times ``direction``. The products and their sum
    are off by at most ``2 v A`` with ``A = |kept| + |taken|`` and ``v`` half the distance from 1 to the next number; a margin
    of ``4 v A``, and a few smallest numbers against underflow, makes up for that and for its own addition.

    Args:
        kept: The product of a coefficient and ``direction``, rounded to float64 (float32 on a device without it).
        taken: The product of a coefficient and another number, likewise.
        direction: Gives the direction and the dtype of the result. Where it is 0 the sum is rounded to nearest.

    Returns:
        A new tensor. Infinity and NaN stay what they are, and overflow gives infinity.
    """
    wide = torch.finfo(kept.dtype)
    near = kept + taken
    margin = 2 * wide.eps * kept.abs() + 2 * wide.eps * taken.abs() + 4 * wide.smallest_normal * wide.eps
    moved = near + torch.where(direction < 0, -margin, margin)
    # Infinity less an infinite margin would be NaN.
    moved = torch.where((direction != 0) & near.isfinite(), moved, near)
    return _round_toward(moved, direction)


def _round_toward(value: Tensor, direction: Tensor) -> Tensor:
    if value.dtype == direction.dtype:
        return value
    narrow = torch.finfo(direction.dtype)
    power = (value.view(_BITS[value.dtype]) & _EXPONENT[value.dtype]).view(value.dtype)
    # The distance of neighbours in the narrow format: a power of two, so that the division and the product are exact.
    unit = (power * narrow.eps).clamp_min(narrow.smallest_normal * narrow.eps)
    steps = value / unit
    whole = torch.where(direction > 0, steps.ceil(), torch.where(direction < 0, steps.floor(), steps.round()))
    return torch.where(value.isfinite(), whole * unit, value).to(direction.dtype)
