"""The table of statistics that kernels fill, combiners read and the geometry reports.

One row a tensor (or a group). A row holds sums over the forget gradient ``f``, the retain gradient ``r`` and the update ``u``,
the number of conflicting coordinates, the number of coordinates, and a power-of-two exponent for each of the three vectors. The
sums are those of ``f * 2**-ef``, ``r * 2**-er`` and ``u * 2**-eu``, so that float64 gradients of any exponent neither underflow
nor overflow; narrower formats have exponents 0.

The columns of the pair come first (:data:`COLUMNS`), those of the update last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["COLUMNS", "Reduce", "along_retain", "reduce_rows", "sum_dtype", "unmeasured", "with_update"]

COLUMNS = ("ff", "rr", "fr", "conflicts", "count", "ef", "er", "uu", "ur", "uf", "eu")
FF, RR, FR, CONFLICTS, COUNT, EF, ER, UU, UR, UF, EU = range(len(COLUMNS))

Reduce = Callable[[Tensor], Tensor]
"""Adds up the tables of processes that each hold a part of every tensor; all of them must call it."""

# Below every exponent of a float64; exp2 of its difference to any of them is a clean zero.
_NO_EXPONENT = -10_000.0


def along_retain(moments: Tensor) -> Tensor:
    """Return ``<f,r> / |r|^2``, the coefficient of the forget gradient's projection on the retain gradient.

    Args:
        moments: Shape ``[g, 11]``, one row a group (:data:`COLUMNS`).

    Returns:
        Shape ``[g]``; 0 where the retain gradient is zero.
    """
    rr = moments[:, RR]
    return torch.where(rr > 0, moments[:, FR] / rr * torch.exp2(moments[:, EF] - moments[:, ER]), 0.0)


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of sums and of linear updates on a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def unmeasured(tensors: Sequence[Tensor]) -> Tensor:
    """Return the table of tensors that were not measured: zeros of shape ``[n, 11]``, on the first one's device."""
    device = tensors[0].device
    return torch.zeros(len(tensors), len(COLUMNS), dtype=sum_dtype(device), device=device)


def with_update(pair: Tensor, update: Tensor) -> Tensor:
    """Return the statistics of a pair from one table and those of its update from another.

    Args:
        pair: Shape ``[n, 11]``.
        update: Shape ``[n, 11]``.
    """
    return torch.cat((pair[:, :UU], update[:, UU:]), 1)


def reduce_rows(table: Tensor, index: Tensor, rows: int) -> Tensor:
    """Add the rows of a table of moments by group.

    Args:
        table: Shape ``[n, 11]``, columns as in :data:`COLUMNS`.
        index: Shape ``[n]``, int64: the group of each row, below ``rows``.
        rows: The number of groups.

    Returns:
        Shape ``[rows, 11]``, on the same device. Exponents are the largest in the group among tensors that are not zero, and
        the sums are rescaled to it by exact powers of two.
    """
    # Single columns are views; a list of columns would be copied to the device, and the host would wait for it.
    squares = torch.stack((table[:, FF], table[:, RR], table[:, UU]), 1)
    exponents = torch.stack((table[:, EF], table[:, ER], table[:, EU]), 1)
    # A tensor of zeros has no exponent: it must not force 0 on a group whose other tensors are tiny.
    exponents = torch.where(squares == 0, _NO_EXPONENT, exponents)
    largest = torch.full((rows, 3), _NO_EXPONENT, dtype=table.dtype, device=table.device)
    largest = largest.scatter_reduce(0, index.unsqueeze(1).expand(-1, 3), exponents, "amax")
    f, r, u = torch.exp2(exponents - largest[index]).unbind(1)
    scaled = table.clone()
    scaled[:, : FR + 1] *= torch.stack((f * f, r * r, f * r), 1)
    scaled[:, UU : UF + 1] *= torch.stack((u * u, u * r, u * f), 1)
    total = torch.zeros(rows, len(COLUMNS), dtype=table.dtype, device=table.device)
    if table.is_cuda:
        total.index_put_((index,), scaled, accumulate=True)  # sorts first; on a GPU index_add_ adds in any order
    else:
        total.index_add_(0, index, scaled)
    largest = torch.where(largest == _NO_EXPONENT, 0.0, largest)
    total[:, EF : ER + 1] = largest[:, :2]
    total[:, EU] = largest[:, 2]
    return total
