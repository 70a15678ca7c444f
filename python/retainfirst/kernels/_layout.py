"""Seeing through a tensor's dimension order to its memory."""

from __future__ import annotations

from torch import Tensor

__all__ = ["dense", "in_memory_order"]


def dense(forget: Tensor, retain: Tensor) -> bool:
    """Whether a pair lies in memory without gaps, in the same order, and with no negation pending."""
    if forget.is_neg() or retain.is_neg():
        return False
    if forget.is_contiguous() and retain.is_contiguous():
        return True
    return all(x.is_contiguous() for x in in_memory_order(forget, retain))


def in_memory_order(forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
    """Return views of a pair with its dimensions in the order of memory, if both have the same order; else the pair itself.

    Dense tensors of any dimension order (transposed, channels last) become contiguous that way, without a copy.
    """
    if forget.stride() != retain.stride():
        return forget, retain
    order = sorted(range(retain.dim()), key=retain.stride, reverse=True)
    return forget.permute(order), retain.permute(order)
