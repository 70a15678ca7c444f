"""A list of tensors with cached attributes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter

import torch
from torch import Tensor

__all__ = ["Tensors"]


class Tensors(tuple[Tensor, ...]):
    """A tuple of tensors with their attributes cached: with many small tensors, reading attributes takes most of the time.

    Each property is read once, in one loop outside the interpreter. An instance lives for one call, in which no tensor moves to
    other memory.
    """

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Tensors:
        """Return ``tensors`` itself if it is an instance already."""
        return tensors if isinstance(tensors, cls) else cls(tensors)

    @cached_property
    def plain(self) -> bool:
        """Whether all are torch's own class (not a subclass), strided and contiguous; False for other objects too."""
        return (
            {*map(type, self)} == {Tensor}
            and {*map(attrgetter("layout"), self)} == {torch.strided}
            and all(map(Tensor.is_contiguous, self))
        )

    @cached_property
    def on_cpu(self) -> bool:
        """Whether all are on the CPU."""
        return all(map(attrgetter("is_cpu"), self))

    @cached_property
    def negated(self) -> bool:
        """Whether a negation is pending for one of them."""
        return any(map(Tensor.is_neg, self))

    @cached_property
    def dtypes(self) -> list[torch.dtype]:
        """Their dtypes."""
        return list(map(attrgetter("dtype"), self))

    @cached_property
    def devices(self) -> list[torch.device]:
        """Their devices."""
        return list(map(attrgetter("device"), self))

    @cached_property
    def sizes(self) -> list[int]:
        """Their numbers of elements."""
        return [x.numel() for x in self]

    @cached_property
    def addresses(self) -> list[int]:
        """Where their data begin."""
        return [x.data_ptr() for x in self]
