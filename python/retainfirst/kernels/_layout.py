"""Seeing through a tensor's dimension order to its memory."""

from __future__ import annotations

from torch import Tensor

__all__ = ["dense", "in_memory_order"]


def dense(*tensors: Tensor) -> bool:
    """Whether tensors of one shape have one dtype and lie in memory without gaps, in one order, with no negation pending."""
    if any(x.is_neg() or x.dtype != tensors[0].dtype for x in tensors):
        return False
    if all(x.is_contiguous() for x in tensors):
        return True
    return all(x.is_contiguous() for x in in_memory_order(*tensors))


def in_memory_order(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return views of tensors of one shape with their dimensions in the order of memory, if all have one order; else themselves.

    Dense tensors of any dimension order (transposed, channels last) become contiguous that way, without a copy.
    """
    first = tensors[0]
    if any(x.stride() != first.stride() for x in tensors[1:]):
        return tensors
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    return tuple(x.permute(order) for x in tensors)
