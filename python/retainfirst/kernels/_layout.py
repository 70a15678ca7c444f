"""Seeing through a tensor's dimension order to its memory."""

from __future__ import annotations

from torch import Tensor

__all__ = ["in_memory_order"]


def in_memory_order(forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
    """Return views of a pair with its dimensions in the order of memory, if both have the same order; else the pair itself.

    Dense tensors of any dimension order (transposed, channels last) become contiguous that way, without a copy.
    """
    if forget.stride() != retain.stride():
        return forget, retain
    order = sorted(range(retain.dim()), key=retain.stride, reverse=True)
    return forget.permute(order), retain.permute(order)
