"""The geometry of the step that an optimiser made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.geometry import Geometry
from retainfirst.scope import Groups

__all__ = ["StepGeometry", "step_table"]

FIELDS = ("cos_step_retain", "cos_step_forget", "norm_step", "opposed_fraction", "put_back_fraction")


class StepGeometry:
    """Where the parameters moved, relative to the two gradients of the step.

    ``d`` is the difference of the stored parameters over ``optimizer.step()``, after coordinates were put back; ``r`` and ``f``
    are the retain and the forget gradient. To first order the retain loss changes by ``<d, r>``.

    The numbers stay on the device until one of them is read. Where parameters are sharded over processes, call
    :meth:`all_reduce` on every process before reading, as for :class:`retainfirst.Geometry`.

    Attributes:
        step: The number of the measured step, from 1.
    """

    def __init__(self, table: Tensor, reduce: m.Reduce | None, step: int) -> None:
        """Wrap what was measured.

        Args:
            table: From :func:`step_table`.
            reduce: Adds up the tables of all processes, if this process has measured its shards only.
            step: The number of the step.
        """
        self._table, self._reduce, self.step = table, reduce, step

    def all_reduce(self) -> StepGeometry:
        """Add up what the processes measured, where parameters are sharded; every process must call it, and may again.

        Returns:
            This geometry.
        """
        if self._reduce is not None:
            self._table, self._reduce = self._reduce(self._table), None
        return self

    @property
    def cos_step_retain(self) -> float:
        """Cosine of ``d`` and ``-r``: 1 straight down the retain loss, negative against retention; NaN where either is zero."""
        return self._moved.cos_forget_retain

    @property
    def cos_step_forget(self) -> float:
        """Cosine of ``d`` and ``-f``: 1 straight down the forget loss; NaN where either is zero."""
        return self._moved.cos_update_forget

    @property
    def norm_step(self) -> float:
        """Euclidean length of ``d``."""
        return self._moved.norm_forget

    @property
    def opposed_fraction(self) -> float:
        """Share of coordinates, in [0, 1], with ``d_i r_i > 0``."""
        return self._moved.conflict_fraction

    @property
    def put_back_fraction(self) -> float:
        """Share of coordinates, in [0, 1], that the guard has put back."""
        return float(self._whole[1, m.CONFLICTS]) / max(float(self._whole[0, m.COUNT]), 1.0)

    @property
    def opposes(self) -> bool:
        """Whether ``<d, r> > 0``: the parameters moved against retention. False where it is NaN, as the cosine then shows."""
        return bool(self._whole[0, m.FR] < 0)

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return {name: getattr(self, name) for name in FIELDS}

    @cached_property
    def _whole(self) -> Tensor:
        # A geometry refuses to give what is not added up over the processes.
        return Geometry(self._table, Groups(("step", "put back")), self._reduce).table().cpu()

    @cached_property
    def _moved(self) -> Geometry:
        return Geometry(self._whole[:1], Groups(("step",)))

    def __repr__(self) -> str:
        if self._reduce is not None:
            return "StepGeometry(of this process's shards; call all_reduce() on every process)"
        numbers = ", ".join(f"{name}={value:.4g}" for name, value in self.as_dict().items())
        return f"StepGeometry(step={self.step}, {numbers}, opposes={self.opposes})"


def step_table(found: Sequence[tuple[Tensor | None, Tensor]], like: Tensor) -> Tensor:
    """Add up what :func:`retainfirst.kernels.guard_` returned.

    Args:
        found: Pairs of a table of moments and the numbers of coordinates that were put back.
        like: One of the parameters.

    Returns:
        Shape ``[2, 11]``: the moments of all parameters, and a row with the number of coordinates put back as its ``conflicts``.
    """
    device = like.device
    rows = torch.cat([m.unmeasured([like]), *(table.to(device) for table, _ in found if table is not None)])
    total = m.reduce_rows(rows, torch.zeros(len(rows), dtype=torch.int64, device=device), 1)
    put_back = torch.zeros_like(total)
    for _, counts in found:
        put_back[0, m.CONFLICTS] += counts.sum().to(device)
    return torch.cat([total, put_back])
