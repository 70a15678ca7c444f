"""Dispatch of the guard, which looks at an optimiser's step, to backends."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from retainfirst.kernels import _rust
from retainfirst.kernels._backend import current_backend
from retainfirst.kernels._dispatch import BROUGHT_OVER, kernels_for
from retainfirst.kernels._tensors import Tensors
from retainfirst.transfer import send

__all__ = ["guard_"]


def guard_(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    *,
    signs: Sequence[Tensor] | None = None,
    zeros: bool = False,
    gradients: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Put back coordinates of a step that work against the retain gradient, and measure the step, in one pass.

    Only stored numbers are compared, so that the result is exact in every format. NaN, in a parameter or a gradient, is never
    put back. All lists are equally long and hold tensors of the same shapes; all but ``after`` may be in host memory.

    Args:
        before: ``n`` parameters before the step.
        after: The same after it; changed in place, where coordinates are put back.
        signs: Put a coordinate back where the step and this tensor have the same sign; None: put nothing back.
        zeros: Also put a coordinate back where ``signs`` is zero.
        gradients: The forget and the retain gradients to measure the step against; None: measure nothing.

    Returns:
        Float64 of shape ``[n, 11]``, or None: moments (:data:`retainfirst.moments.COLUMNS`) in which the final step backwards,
        ``before - after``, stands for the forget gradient and the forget gradient for the update, so that ``conflicts`` counts
        coordinates that work against the retain gradient. The product of the two gradients, ``ur``, is not measured: it is 0.
        And int64 of shape ``[n]``: how many coordinates were put back.
    """
    everything = [before, signs, *(gradients or (None, None))]
    lists = [None if tensors is None else Tensors.of(tensors) for tensors in everything]
    mine = Tensors.of(after)
    backend = current_backend()
    if backend == "auto" and all(xs is None or _rust.takes_all(xs, mine) for xs in lists):
        return _work(_rust, mine, lists, zeros)
    tables, counts, order = [], [], list[int]()
    for kernels, chosen in _parts(backend, mine, lists):
        near = [None if xs is None else [xs[i].to(mine[i].device, non_blocking=True) for i in chosen] for xs in lists]
        table, count = _work(kernels, [mine[i] for i in chosen], near, zeros)
        tables += [] if table is None else [table.to(mine[0].device)]
        counts.append(count.to(mine[0].device))
        order += chosen
    back = send(torch.argsort(torch.tensor(order, device="cpu")), mine[0].device)
    return torch.cat(tables)[back] if tables else None, torch.cat(counts)[back]


_Lists = Sequence[Sequence[Tensor] | None]


def _work(kernels: ModuleType, after: Sequence[Tensor], lists: _Lists, zeros: bool) -> tuple[Tensor | None, Tensor]:
    before, signs, forget, retain = lists
    gradients = None if forget is None else (forget, retain)
    found: tuple[Tensor | None, Tensor] = kernels.guard_(before, after, signs, zeros, gradients)
    return found


def _parts(backend: str, after: Sequence[Tensor], lists: _Lists) -> list[tuple[ModuleType, list[int]]]:
    """Group tensors by backend, dtype and device; a part brings over a few tensors only from host memory."""
    parts: dict[tuple[ModuleType, torch.dtype, torch.device], list[list[int]]] = {}
    size: dict[object, int] = {}
    for i, a in enumerate(after):
        tensors = [xs[i] for xs in lists if xs is not None]
        key = (kernels_for(backend, *tensors, a), a.dtype, a.device)
        far = any(x.device != a.device for x in tensors)
        if key not in parts or (far and size[key] >= BROUGHT_OVER):
            parts.setdefault(key, []).append([])
            size[key] = 0
        parts[key][-1].append(i)
        size[key] += a.nbytes
    return [(kernels, chosen) for (kernels, _, _), some in parts.items() for chosen in some]
