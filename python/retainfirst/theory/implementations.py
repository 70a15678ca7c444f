"""All implementations of a combiner in one form: the Rust reference if there is one, and torch on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retainfirst import kernels, reference
from retainfirst.combiners import make_combiner
from retainfirst.theory.arrays import as_array, as_tensor
from retainfirst.theory.sums import GradientPair

__all__ = ["Implementation", "implementations", "toward_retain"]


@dataclass(frozen=True)
class Implementation:
    """One way to compute a combiner's update.

    Attributes:
        name: Its name in tables and texts.
        backend: ``"rust"``: the reference on numpy arrays; ``"auto"`` or ``"eager"``: torch on that backend.
        call: Returns the stored update of a pair.
    """

    name: str
    backend: str
    call: Callable[[GradientPair], NDArray[Any]]


def implementations(combiner: str) -> list[Implementation]:
    """Return all implementations of a combiner, by its name. Only built-in combiners have a Rust reference."""
    found = _torch(combiner)
    if combiner in reference.RULES:
        found.insert(0, Implementation(f"{combiner} (rust)", "rust", partial(_by_reference, combiner)))
    return found


def toward_retain() -> list[Implementation]:
    """Return the implementations of PCGrad with the option that makes it keep X2."""
    return _torch("pcgrad", round_toward_retain=True)


def _torch(combiner: str, **options: Any) -> list[Implementation]:
    extra = "".join(f", {name}" for name in options)
    return [
        Implementation(f"{combiner} (torch, {backend}{extra})", backend, partial(_by_torch, combiner, backend, options))
        for backend in kernels.BACKENDS
    ]


def _by_reference(combiner: str, pair: GradientPair) -> NDArray[Any]:
    return reference.combine(
        pair.forget, pair.retain, combiner, alpha=pair.alpha, gamma=pair.gamma, groups=pair.groups or None
    )


def _by_torch(name: str, backend: str, options: dict[str, Any], pair: GradientPair) -> NDArray[Any]:
    """Combine with each group split into two tensors, so that a group has several."""
    combiner = make_combiner(name, alpha=pair.alpha, gamma=pair.gamma, **options)
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
