"""Norms of the forget gradient, the retain gradient and the update, and the angles between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.errors import RetainFirstError
from retainfirst.scope import Groups

__all__ = ["FIELDS", "Geometry"]


class Geometry:
    """Norms, cosines and the share of conflicting coordinates, measured in the pass that wrote the update.

    The numbers stay on the gradients' device until one of them is read; the first read copies a few scalars to the host
    (and waits for the device), later ones cost nothing. With ``f`` the forget gradient, ``r`` the retain gradient and
    ``u`` the update as stored in its dtype:

    Attributes:
        cos_forget_retain: Cosine of ``f`` and ``r``, in [-1, 1]; below zero the two tasks conflict as a whole.
        cos_update_retain: Cosine of ``u`` and ``r``; theorem T2 promises that it is not negative for SAGO and PCGrad. Of the
            step that an optimiser makes of ``u`` it says nothing (T10, X3).
        cos_update_forget: Cosine of ``u`` and ``f``.
        norm_forget: Euclidean length of ``f``.
        norm_retain: Euclidean length of ``r``.
        norm_update: Euclidean length of ``u``.
        conflict_fraction: Share of coordinates, in [0, 1], where ``f`` and ``r`` have opposite signs (a zero never conflicts).

    A cosine with a zero vector is undefined and reported as NaN, never as 0 or 1.

    Where gradients are sharded over processes (FSDP, DeepSpeed), each process has measured its own shards. Call
    :meth:`all_reduce` on every process before reading: an all-reduce that started with the first read would hang a process that
    reads alone. Elsewhere :meth:`all_reduce` does nothing.
    """

    def __init__(self, table: Tensor, groups: Groups, reduce: m.Reduce | None = None) -> None:
        """Wrap a table of moments.

        Args:
            table: Shape ``[n, 11]``, one row a tensor (:mod:`retainfirst.moments`).
            groups: The groups of the tensors.
            reduce: Adds up the tables of all processes, if this process has measured its shards only.
        """
        self._table, self._groups, self._reduce = table, groups, reduce

    @staticmethod
    def join(parts: Sequence[Geometry]) -> Geometry:
        """Return one geometry for several combinations of different parameters in one process."""
        parts = [part for part in parts if len(part._groups)] or parts[:1]  # one of no tensors is on the CPU
        index, names = [], list[str]()
        for part in parts:
            index.append(part._group_of_each() + len(names))
            names += part._groups.names
        device = parts[0]._table.device
        table = torch.cat([part.table().to(device) for part in parts])
        return Geometry(table, Groups(tuple(names), torch.cat(index)))

    def all_reduce(self) -> Geometry:
        """Add up what the processes measured, where gradients are sharded; every process must call it, and may again.

        Returns:
            This geometry.
        """
        if self._reduce is not None:
            self._table, self._reduce = self._reduce(self._table), None
        return self

    def table(self) -> Tensor:
        """Return the table of moments, shape ``[n, 11]``, one row a tensor (:mod:`retainfirst.moments`).

        Raises:
            RetainFirstError: This process has measured its shards only.
        """
        if self._reduce is not None:
            raise RetainFirstError(
                "Geometry: this process has measured its shards only; call geometry.all_reduce() on every process before reading"
            )
        return self._table

    def _group_of_each(self) -> Tensor:
        index = self._groups.index
        return torch.arange(len(self._groups), device="cpu") if index is None else index

    @cached_property
    def _row(self) -> list[float]:
        table = self.table()
        everything = torch.zeros(len(table), dtype=torch.int64, device=table.device)
        row: list[float] = m.reduce_rows(table, everything, 1)[0].tolist()
        return row

    @property
    def cos_forget_retain(self) -> float:
        """Cosine of the forget and the retain gradient."""
        return self._cosine(m.FR, m.FF, m.RR)

    @property
    def cos_update_retain(self) -> float:
        """Cosine of the update and the retain gradient."""
        return self._cosine(m.UR, m.UU, m.RR)

    @property
    def cos_update_forget(self) -> float:
        """Cosine of the update and the forget gradient."""
        return self._cosine(m.UF, m.UU, m.FF)

    @property
    def norm_forget(self) -> float:
        """Euclidean length of the forget gradient."""
        return self._norm(m.FF, m.EF)

    @property
    def norm_retain(self) -> float:
        """Euclidean length of the retain gradient."""
        return self._norm(m.RR, m.ER)

    @property
    def norm_update(self) -> float:
        """Euclidean length of the update."""
        return self._norm(m.UU, m.EU)

    @property
    def conflict_fraction(self) -> float:
        """Share of coordinates with opposite signs; 0 where there are no coordinates at all."""
        return self._row[m.CONFLICTS] / max(self._row[m.COUNT], 1.0)

    def as_dict(self) -> dict[str, float]:
        """Return the seven numbers by name."""
        return {name: getattr(self, name) for name in FIELDS}

    def per_group(self) -> dict[str, Geometry]:
        """Return the geometry of each group of the scope (of each tensor, for element-wise combiners) by the group's name."""
        table, names = self.table(), self._groups.names
        table = m.reduce_rows(table, self._group_of_each().to(table.device), len(names)).cpu()
        return {name: Geometry(row.unsqueeze(0), Groups((name,))) for name, row in zip(names, table, strict=True)}

    def not_finite(self) -> dict[int, list[str]]:
        """Return which tensors held NaN or infinity: their index, and ``"forget"``, ``"retain"`` or both."""
        bad = ~self.table()[:, : m.RR + 1].isfinite()
        return {
            i: [task for task, found in zip(("forget", "retain"), row, strict=True) if found]
            for i, row in enumerate(bad.tolist())
            if any(row)
        }

    def __repr__(self) -> str:
        if self._reduce is not None:
            return "Geometry(of this process's shards; call all_reduce() on every process)"
        return "Geometry(" + ", ".join(f"{name}={value:.4g}" for name, value in self.as_dict().items()) + ")"

    def _cosine(self, dot: int, left: int, right: int) -> float:
        lengths = math.sqrt(self._row[left]) * math.sqrt(self._row[right])
        if lengths == 0 or not math.isfinite(lengths):
            return math.nan
        return max(-1.0, min(1.0, self._row[dot] / lengths))

    def _norm(self, square: int, exponent: int) -> float:
        try:
            return math.ldexp(math.sqrt(self._row[square]), int(self._row[exponent]))
        except OverflowError:
            return math.inf


FIELDS = (
    "cos_forget_retain",
    "cos_update_retain",
    "cos_update_forget",
    "norm_forget",
    "norm_retain",
    "norm_update",
    "conflict_fraction",
)
