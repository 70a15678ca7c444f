"""The table of statistics that kernels fill, rules read and geometry reports.

One row a tensor (or a group): six sums over the forget gradient ``f``, the retain gradient ``r`` and the update ``u``, two
counts, and a power-of-two exponent for each of the three. The sums are those of ``f * 2**-ef``, ``r * 2**-er`` and
``u * 2**-eu``, so that float64 gradients of any exponent neither underflow nor overflow; narrower formats have exponents 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["COLUMNS", "Reduce", "reduce_rows"]

COLUMNS = ("ff", "rr", "fr", "conflicts", "count", "ef", "er", "uu", "ur", "uf", "eu")
FF, RR, FR, CONFLICTS, COUNT, EF, ER, UU, UR, UF, EU = range(len(COLUMNS))

Reduce = Callable[[Tensor], Tensor]
"""Adds up the tables of processes that each hold a part of every tensor; all of them must call it."""

# Below every exponent of a float64, and a number whose difference to any of them exp2 still takes to a clean zero.
_NO_EXPONENT = -10_000.0


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
    # Slices: a list of columns would be sent to the device, and waited for.
    squares = torch.stack((table[:, FF], table[:, RR], table[:, UU]), 1)
    exponents = torch.stack((table[:, EF], table[:, ER], table[:, EU]), 1)
    # A tensor of zeros has no exponent: it must not force 0 on a group whose other tensors are tiny.
    exponents = torch.where(squares == 0, _NO_EXPONENT, exponents)
    largest = torch.full((rows, 3), _NO_EXPONENT, dtype=table.dtype, device=table.device)
    largest = largest.scatter_reduce(0, index.unsqueeze(1).expand(-1, 3), exponents, "amax")
    shift = torch.exp2(exponents - largest[index])
    f, r, u = shift.unbind(1)
    scaled = table.clone()
    scaled[:, : FR + 1] *= torch.stack((f * f, r * r, f * r), 1)
    scaled[:, UU : UF + 1] *= torch.stack((u * u, u * r, u * f), 1)
    total = torch.zeros(rows, len(COLUMNS), dtype=table.dtype, device=table.device)
    if table.is_cuda:
        total.index_put_((index,), scaled, accumulate=True)  # sorts first: there, index_add_ adds in any order
    else:
        total.index_add_(0, index, scaled)
    largest = torch.where(largest == _NO_EXPONENT, 0.0, largest)
    total[:, EF : ER + 1], total[:, EU] = largest[:, :2], largest[:, 2]
    return total
