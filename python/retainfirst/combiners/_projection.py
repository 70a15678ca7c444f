"""Combiners that need the dot products of a group."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from retainfirst import kernels
from retainfirst import moments as m
from retainfirst.combiners._base import Combiner
from retainfirst.errors import ShapeMismatch
from retainfirst.kernels import Tensors
from retainfirst.scope import Groups, check_scope
from retainfirst.transfer import send

__all__ = ["ProjectionCombiner"]


@dataclass(frozen=True)
class ProjectionCombiner(Combiner):
    """A combiner whose update is ``c_r r + c_f f`` with two coefficients a group.

    A subclass gives :meth:`coefficients`, which sees statistics of a group alone. Where gradients are sharded, one all-reduce of
    these statistics makes the update the same as on one device.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"`` (:func:`retainfirst.scope.group_by_scope`).

    Raises:
        RetainFirstError: A weight is out of its range, or the scope is unknown.

    Example:
        >>> import retainfirst as rf
        >>> class Orthogonal(rf.ProjectionCombiner):
        ...     def coefficients(self, moments):
        ...         return self.alpha - self.gamma * rf.moments.along_retain(moments), self.gamma
        >>> rf.combine(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]), Orthogonal())
        tensor([1., 4.])
    """

    scope: str = "tensor"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scope(self.scope)

    @abstractmethod
    def coefficients(self, moments: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return the coefficients of the retain and of the forget gradient.

        Args:
            moments: Shape ``[g, 11]``, float64, one row a group; its columns are :data:`retainfirst.moments.COLUMNS`, such as
                ``moments[:, retainfirst.moments.FR]`` for ``<f,r>``. Sums of ``f`` are scaled by ``2**-EF`` and sums of ``r`` by
                ``2**-ER``; both exponents are 0 but for float64 gradients of extreme size.
                :func:`retainfirst.moments.along_retain` gives ``<f,r>/|r|^2`` at the true scale.

        Returns:
            ``c_r`` and ``c_f``: tensors of shape ``[g]`` on the same device, or numbers.
        """

    def _update(
        self, forget: Tensors, retain: Tensors, groups: Groups, reduce: m.Reduce | None, measure: bool
    ) -> Tensor:
        table = kernels.moments(forget, retain)
        index = None if groups.index is None else send(groups.index, retain[0].device)
        rows = table if index is None else m.reduce_rows(table, index, len(groups))
        coefficients = self._checked_coefficients(rows if reduce is None else reduce(rows))
        if index is not None:
            coefficients = coefficients[0][index], coefficients[1][index]
        written = kernels.linear_(forget, retain, *coefficients, self.rounding == "toward_retain", measure)
        return m.with_update(table, written) if measure else table

    def _checked_coefficients(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        found = self.coefficients(moments)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ShapeMismatch(f"{self.name}: coefficients() must return two, of retain and of forget, not {found!r}")
        c_retain, c_forget = (self._checked_coefficient(one, moments) for one in found)
        return c_retain, c_forget

    def _checked_coefficient(self, coefficient: object, moments: Tensor) -> Tensor:
        if isinstance(coefficient, Tensor) and coefficient.shape == moments.shape[:1]:
            return coefficient.to(moments.device, moments.dtype)
        if isinstance(coefficient, int | float):
            return torch.full((len(moments),), coefficient, dtype=moments.dtype, device=moments.device)
        what = f"shape {tuple(coefficient.shape)}" if isinstance(coefficient, Tensor) else repr(coefficient)
        raise ShapeMismatch(
            f"{self.name}: coefficients() must return tensors of shape ({len(moments)},), one number a group, not {what}"
        )
