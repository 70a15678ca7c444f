"""All-reduce of tables of moments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from retainfirst.moments import Reduce, reduce_rows

__all__ = ["over_processes"]


def over_processes(group: dist.ProcessGroup | None) -> Reduce:
    """Return the function that adds up tables of moments over a group of processes, in one collective call.

    The tables are gathered and then added up locally: rows of different exponents must be rescaled before they are added, and the
    sum has the same bits on every process.
    """

    def reduce(table: Tensor) -> Tensor:
        world, rows = dist.get_world_size(group), len(table)
        everyone = table.new_empty(world * rows, table.shape[1])
        dist.all_gather_into_tensor(everyone, table.contiguous(), group=group)
        return reduce_rows(everyone, torch.arange(rows, device=table.device).repeat(world), rows)

    return reduce
