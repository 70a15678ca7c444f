"""A list of tensors with cached attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Tensors"]

T = TypeVar("T")


class _Cached(Generic[T]):
    """Like :func:`functools.cached_property`, which takes a lock until Python 3.12: a tenth of a call on small tensors."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read = read
        self._name = read.__name__
        self.__doc__ = read.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        value = instance.__dict__[self._name] = self._read(instance)
        return value


class Tensors(tuple[Tensor, ...]):
    """A tuple of tensors with their attributes cached: with many small tensors, reading attributes takes most of the time.

    Each property is read once, in one loop outside the interpreter. An instance lives for one call, in which no tensor moves to
    other memory.
    """

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Tensors:
        """Return ``tensors`` itself if it is an instance already."""
        return tensors if isinstance(tensors, cls) else cls(tensors)

    @_Cached
    def plain(self) -> bool:
        """Whether all are torch's own class (not a subclass), strided and contiguous; False for other objects too."""
        return (
            {*map(type, self)} == {Tensor}
            and {*map(attrgetter("layout"), self)} == {torch.strided}
            and all(map(Tensor.is_contiguous, self))
        )

    @_Cached
    def on_cpu(self) -> bool:
        """Whether all are on the CPU."""
        return all(map(attrgetter("is_cpu"), self))

    @_Cached
    def negated(self) -> bool:
        """Whether a negation is pending for one of them."""
        return any(map(Tensor.is_neg, self))

    @_Cached
    def dtypes(self) -> list[torch.dtype]:
        """Their dtypes."""
        return list(map(attrgetter("dtype"), self))

    @_Cached
    def devices(self) -> list[torch.device]:
        """Their devices."""
        return list(map(attrgetter("device"), self))

    @_Cached
    def sizes(self) -> list[int]:
        """Their numbers of elements."""
        return [x.numel() for x in self]

    @_Cached
    def addresses(self) -> list[int]:
        """Where their data begin."""
        return [x.data_ptr() for x in self]
