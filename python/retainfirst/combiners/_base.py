"""What every combiner shares: weights, checks, grouping, and the two kinds of rule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from operator import index as as_index
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from retainfirst import kernels
from retainfirst import moments as m
from retainfirst.combiners._checks import check_in_place
from retainfirst.errors import RetainFirstError, ShapeMismatch
from retainfirst.geometry import Geometry
from retainfirst.scope import check_scope, group_by_scope
from retainfirst.transfer import send

__all__ = ["Combiner", "ElementwiseCombiner", "ProjectionCombiner"]


@dataclass(frozen=True)
class Combiner(ABC):
    """A rule that makes one update out of a forget gradient and a retain gradient.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.

    Raises:
        RetainFirstError: A weight is out of its range.
    """

    alpha: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("alpha", "above 0"), ("gamma", "at least 0")):
            given = getattr(self, name)
            value = _as_float(given)
            if not math.isfinite(value) or value < 0 or (value == 0 and name == "alpha"):
                raise RetainFirstError(f"{type(self).__name__}: {name} must be a finite number {least}, not {given!r}")
            object.__setattr__(self, name, value)  # frozen; a NumPy number becomes a plain one

    @property
    @abstractmethod
    def name(self) -> str:
        """The rule's name in the registry, such as ``"pcgrad"``."""

    def group(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Group parameters by name as the rule's scope asks; without a scope each is by itself, for the geometry's sake."""
        return group_by_scope(names, getattr(self, "scope", "tensor"))

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
            groups: Lists of indices into the tensors, each index in one of them. None: as the scope says, which for the
                scopes ``"module"`` and ``"block"`` needs parameter names and so is an error here.

        Returns:
            The geometry, measured in the same pass.

        Raises:
            ShapeMismatch: Lengths or shapes differ, the groups do not cover each tensor once, or the tensors share memory.
            DtypeMismatch: Dtypes or devices differ, or a dtype is none of float64, float32, float16, bfloat16.
        """
        if isinstance(forget, Tensor) or isinstance(retain, Tensor):
            raise ShapeMismatch(f"{self.name}: combine_ takes two lists of tensors; put a single tensor into a list")
        forget, retain = check_in_place(self.name, forget, retain)
        named = self.group_without_names(len(retain)) if groups is None else _named_groups(self.name, groups)
        return self.combine_named_(forget, retain, named)

    def combine_named_(
        self,
        forget: Sequence[Tensor],
        retain: Sequence[Tensor],
        groups: Mapping[str, Sequence[int]],
        reduce: m.Reduce | None = None,
    ) -> Geometry:
        """As :meth:`combine_`, with named groups, for tensors that have been checked already.

        Args:
            forget: See :meth:`combine_`; they may be on the CPU and ``retain`` elsewhere.
            retain: See :meth:`combine_`.
            groups: Group name to indices.
            reduce: Adds up tables of moments over the processes that hold the other parts of these tensors.
        """
        index = _group_index(self.name, groups, len(retain))
        forget, retain = kernels.Tensors.of(forget), kernels.Tensors.of(retain)
        if not retain:
            return Geometry(torch.zeros(0, len(m.COLUMNS), dtype=torch.float64), index, [])
        with torch.no_grad():
            return Geometry(self._update(forget, retain, index, len(groups), reduce), index, list(groups), reduce)

    def group_without_names(self, count: int) -> Mapping[str, Sequence[int]]:
        """Group ``count`` nameless tensors, where the scope allows it."""
        scope = getattr(self, "scope", "tensor")
        if count > 1 and scope in ("module", "block"):
            raise RetainFirstError(
                f"{self.name}: scope {scope!r} groups by parameter names, but the tensors have none; give them as a mapping"
                " from names, pass groups=, or use TwoTaskStep"
            )
        return {"global": range(count)} if scope == "global" else _each_alone(count)

    @abstractmethod
    def _update(
        self,
        forget: Sequence[Tensor],
        retain: Sequence[Tensor],
        index: Tensor | None,
        groups: int,
        reduce: m.Reduce | None,
    ) -> Tensor:
        """Write the update into ``retain`` and return the table of moments, one row a tensor.

        ``index`` is the group of each tensor, None if they are groups of one in the order of the tensors.
        """


class ElementwiseCombiner(Combiner):
    """A rule that looks at one coordinate at a time: it needs no group, and no communication when gradients are sharded."""

    def _update(
        self,
        forget: Sequence[Tensor],
        retain: Sequence[Tensor],
        index: Tensor | None,  # noqa: ARG002
        groups: int,  # noqa: ARG002
        reduce: m.Reduce | None,  # noqa: ARG002
    ) -> Tensor:
        return kernels.elementwise_(self.name, forget, retain, self.alpha, self.gamma)


@dataclass(frozen=True)
class ProjectionCombiner(Combiner):
    """A rule whose update is ``c_r r + c_f f`` with two coefficients a group, made of the group's dot products.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"`` (:func:`retainfirst.scope.group_by_scope`).
    """

    scope: str = "tensor"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scope(self.scope)

    @abstractmethod
    def coefficients(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients of the retain and of the forget gradient.

        Args:
            moments: Shape ``[g, 11]``, one row a group (:data:`retainfirst.moments.COLUMNS`).

        Returns:
            Two tensors of shape ``[g]`` on the same device: ``c_r`` and ``c_f``.
        """

    def _update(
        self,
        forget: Sequence[Tensor],
        retain: Sequence[Tensor],
        index: Tensor | None,
        groups: int,
        reduce: m.Reduce | None,
    ) -> Tensor:
        table = kernels.moments(forget, retain)
        if index is None:
            c_retain, c_forget = self.coefficients(table if reduce is None else reduce(table))
        else:
            index = send(index, retain[0].device)
            rows = m.reduce_rows(table, index, groups)
            c_retain, c_forget = (c[index] for c in self.coefficients(rows if reduce is None else reduce(rows)))
        toward_retain = getattr(self, "round_toward_retain", False)
        written = kernels.linear_(forget, retain, c_retain, c_forget, toward_retain)
        return _with_update(table, written)


def _with_update(table: Tensor, written: Tensor) -> Tensor:
    """Return a table of moments whose columns of the update are another's."""
    return torch.cat((table[:, : m.UU], written[:, m.UU :]), 1)


def _as_float(value: object) -> float:
    """Return a real number as a float; NaN for what is none, infinity for what is too large."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _named_groups(rule: str, groups: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    try:
        named = {str(g): [as_index(i) for i in group] for g, group in enumerate(groups)}
    except TypeError as error:
        raise ShapeMismatch(
            f"{rule}: groups must be lists of tensor indices such as [[0, 2], [1]], not {groups!r}"
        ) from error
    return named


@lru_cache(maxsize=16)
def _each_alone(count: int) -> Mapping[str, Sequence[int]]:
    """Return each tensor as a group: what calls with lists of tensors mostly ask for, as long again and again."""
    return MappingProxyType({str(i): (i,) for i in range(count)})


def _group_index(rule: str, groups: Mapping[str, Sequence[int]], count: int) -> Tensor | None:
    """Return the group of each tensor; None if they are groups of one in the order of the tensors."""
    if isinstance(groups, MappingProxyType) and groups is _each_alone(count):
        return None
    index = [-1] * count
    for g, members in enumerate(groups.values()):
        for i in members:
            if not 0 <= i < count or index[i] != -1:
                problem = "stands in two groups" if 0 <= i < count else f"does not exist (there are {count})"
                raise ShapeMismatch(f"{rule}: groups: tensor {i} {problem}; name each tensor once")
            index[i] = g
    if -1 in index:
        raise ShapeMismatch(f"{rule}: groups: tensor {index.index(-1)} is in none; name each tensor once")
    if index == [*range(len(groups))]:
        return None
    # By NumPy, to which a long list is faster; also on the CPU where another device is torch's default.
    return torch.from_numpy(np.array(index, dtype=np.int64))
