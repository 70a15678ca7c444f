"""The interface of every combiner: weights, scope, and an update in place."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index as as_index
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.combiners._checks import check_in_place, check_weight
from retainfirst.errors import RetainFirstError, ShapeMismatch
from retainfirst.geometry import Geometry
from retainfirst.kernels import Tensors
from retainfirst.scope import Groups

__all__ = ["Combiner", "Rounding"]

Rounding = Literal["nearest", "toward_retain"]


@dataclass(frozen=True)
class Combiner(ABC):
    """Makes one update out of a forget gradient and a retain gradient.

    To write a combiner of your own, derive from :class:`~retainfirst.ElementwiseCombiner` or
    :class:`~retainfirst.ProjectionCombiner`.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.

    Raises:
        RetainFirstError: A weight is out of its range.
    """

    alpha: float = 1.0
    gamma: float = 1.0

    registered_name: ClassVar[str] = ""
    """Set by :func:`retainfirst.register`."""

    def __post_init__(self) -> None:
        for weight in ("alpha", "gamma"):
            value = check_weight(type(self).__name__, weight, getattr(self, weight))
            object.__setattr__(self, weight, value)  # frozen; a NumPy number becomes a plain one

    @property
    def name(self) -> str:
        """The name in the registry, such as ``"pcgrad"``; for a class that is not registered, the class's own."""
        return vars(type(self)).get("registered_name", "") or type(self).__name__

    @property
    def scope(self) -> str:
        """Which tensors are combined together (:data:`retainfirst.scope.SCOPES`)."""
        return "tensor"

    @property
    def rounding(self) -> Rounding:
        """Direction in which an element of the update is rounded: to nearest, or in the direction of its retain gradient."""
        return "nearest"

    @property
    def average(self) -> float:
        """Decay of the moving average that stands for the retain gradient, in [0, 1); 0: the gradient itself.

        :class:`retainfirst.TwoTaskStep` keeps the average; :func:`retainfirst.combine` refuses a combiner that needs one.
        """
        return 0.0

    def with_weights(self, *, alpha: float | None = None, gamma: float | None = None) -> Self:
        """Return a copy with other weights; None keeps a weight.

        Raises:
            RetainFirstError: A weight is out of its range.
        """
        other = copy.copy(self)
        for weight, value in (("alpha", alpha), ("gamma", gamma)):
            if value is not None:
                object.__setattr__(other, weight, check_weight(self.name, weight, value))
        return other

    def group(self, names: Sequence[str]) -> Groups:
        """Group parameters by name according to the scope; element-wise combiners group only for the geometry."""
        return Groups.by_scope(names, self.scope)

    def group_without_names(self, count: int) -> Groups:
        """Group ``count`` tensors without names.

        Raises:
            RetainFirstError: The scope groups by names, and there are several tensors.
        """
        return self._groups(None, count)

    def combine_(
        self,
        forget: Sequence[Tensor],
        retain: Sequence[Tensor],
        groups: Sequence[Sequence[int]] | None = None,
    ) -> Geometry:
        """Overwrite the retain gradients with the update.

        Args:
            forget: Forget gradients (of a loss that is minimised); left as they are.
            retain: Retain gradients of the same shapes, dtypes and devices; each holds the update afterwards.
            groups: Lists of indices into the tensors, each index in one of them. None: by the scope; the scopes ``"module"``
                and ``"block"`` need parameter names, and are an error here.

        Returns:
            The geometry, measured in the same pass.

        Raises:
            ShapeMismatch: Lengths or shapes differ, the groups do not cover each tensor once, or the tensors share memory.
            DtypeMismatch: Dtypes or devices differ, or a dtype is none of float64, float32, float16, bfloat16.
            RetainFirstError: The combiner needs a moving average.
        """
        if isinstance(forget, Tensor) or isinstance(retain, Tensor):
            raise ShapeMismatch(f"{self.name}: combine_ takes two lists of tensors; put a single tensor into a list")
        self.refuse_average()
        forget, retain = check_in_place(self.name, forget, retain)
        return self.combine_named_(forget, retain, self._groups(groups, len(retain)))

    def combine_named_(
        self,
        forget: Sequence[Tensor],
        retain: Sequence[Tensor],
        groups: Groups,
        reduce: m.Reduce | None = None,
        *,
        measure: bool = True,
    ) -> Geometry:
        """Do the same as :meth:`combine_` with named groups, for tensors that are checked already.

        Args:
            forget: See :meth:`combine_`; they may be on the CPU and ``retain`` elsewhere.
            retain: See :meth:`combine_`.
            groups: The groups of the tensors.
            reduce: Adds up tables of moments over the processes that hold the other shards of these tensors.
            measure: False: write the update alone, with the same bits; the geometry is then meaningless.
        """
        forget, retain = Tensors.of(forget), Tensors.of(retain)
        if not retain:
            return Geometry(torch.zeros(0, len(m.COLUMNS), dtype=torch.float64), groups)
        with torch.no_grad():
            return Geometry(self._update(forget, retain, groups, reduce, measure), groups, reduce)

    def refuse_average(self) -> None:
        """Refuse a combiner with a moving average outside :class:`retainfirst.TwoTaskStep`.

        Raises:
            RetainFirstError: :attr:`average` is not 0.
        """
        if self.average:
            raise RetainFirstError(
                f"{self.name}: average={self.average} needs the retain gradients of earlier steps; use TwoTaskStep, which keeps"
                " their moving average"
            )

    @abstractmethod
    def _update(
        self, forget: Tensors, retain: Tensors, groups: Groups, reduce: m.Reduce | None, measure: bool
    ) -> Tensor:
        """Write the update into ``retain`` and return the table of moments, one row a tensor, if it is to be measured."""

    def _groups(self, groups: Sequence[Sequence[int]] | None, count: int) -> Groups:
        try:
            return Groups.without_names(count, self.scope) if groups is None else _groups_of(groups, count)
        except RetainFirstError as error:
            raise type(error)(f"{self.name}: {error}") from error


def _groups_of(groups: Sequence[Sequence[int]], count: int) -> Groups:
    try:
        members = {str(g): [as_index(i) for i in group] for g, group in enumerate(groups)}
    except TypeError as error:
        raise ShapeMismatch(f"groups must be lists of tensor indices such as [[0, 2], [1]], not {groups!r}") from error
    return Groups.of(members, count)
