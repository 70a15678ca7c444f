"""Everything in this library that computes an update, in one form, so that all of it can be held against the statements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retainfirst import kernels, reference
from retainfirst.combiners import available_combiners, make_combiner
from retainfirst.theory.arrays import as_array, as_tensor
from retainfirst.theory.sums import Pair

__all__ = ["IMPLEMENTATIONS", "TOWARD_RETAIN", "Implementation"]


@dataclass(frozen=True)
class Implementation:
    """One way to compute a rule's update.

    Attributes:
        name: For tables and texts.
        backend: ``"rust"``: the reference on numpy arrays; ``"auto"`` or ``"eager"``: the torch combiners on that backend.
        call: Makes the stored update of a pair.
    """

    name: str
    backend: str
    call: Callable[[Pair], NDArray[Any]]


def _reference(rule: str, pair: Pair) -> NDArray[Any]:
    return reference.combine(
        pair.forget, pair.retain, rule, alpha=pair.alpha, gamma=pair.gamma, groups=pair.groups or None
    )


def _torch(rule: str, backend: str, options: dict[str, Any], pair: Pair) -> NDArray[Any]:
    """Give every group as two tensors, so that groups hold several."""
    combiner = make_combiner(rule, alpha=pair.alpha, gamma=pair.gamma, **options)
    ranges: list[slice] = []
    groups: list[list[int]] = []
    for start, stop in pair.groups or [(0, len(pair.retain))]:
        middle = start + (stop - start) // 3
        groups.append([len(ranges), len(ranges) + 1])
        ranges += [slice(start, middle), slice(middle, stop)]
    forget, retain = ([as_tensor(x[part]) for part in ranges] for x in (pair.forget, pair.retain))
    with kernels.use_backend(backend):
        combiner.combine_(forget, retain, groups)
    update = np.empty_like(pair.retain)
    for part, written in zip(ranges, retain, strict=True):
        update[part] = as_array(written)
    return update


def _all(rule: str, **options: Any) -> list[Implementation]:
    extra = "".join(f", {name}" for name in options)
    return [
        Implementation(f"{rule} (torch, {backend}{extra})", backend, partial(_torch, rule, backend, options))
        for backend in kernels.BACKENDS
    ]


IMPLEMENTATIONS: dict[str, list[Implementation]] = {
    rule: [Implementation(f"{rule} (rust)", "rust", partial(_reference, rule)), *_all(rule)]
    for rule in available_combiners()
}
"""By rule: the reference, and the torch combiners on each backend."""

TOWARD_RETAIN: list[Implementation] = _all("pcgrad", round_toward_retain=True)
"""PCGrad with the option that keeps X2's guarantee."""
