"""A step of an optimiser, as it was stored: what the statements about steps are judged on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retainfirst.theory.arrays import as_array, as_tensor
from retainfirst.theory.runs import Run
from retainfirst.theory.sums import GradientPair

__all__ = ["Step", "history", "moves_against", "take"]

Array = NDArray[Any]

_START = (0.5, -0.25, 0.0, 0.03125, -2.0)
"""The parameters before the first step, over and over: both signs, a zero, and sizes that differ by powers of two."""


@dataclass(frozen=True, eq=False)
class Step:
    """The last step of a run. All arrays are flat, of one dtype.

    Attributes:
        run: Optimiser and number of steps.
        update: What stood in ``.grad`` before the step.
        before: The parameters before the step.
        moved: The parameters as the optimiser left them.
        after: The parameters after the guard; ``moved`` if there is none.
        earlier: The pairs of gradients of the steps before.
    """

    run: Run
    update: Array
    before: Array
    moved: Array
    after: Array
    earlier: tuple[GradientPair, ...] = ()


def moves_against(before: Array, after: Array, retain: Array) -> NDArray[np.bool_]:
    """Return a mask of the coordinates that a step moves against the retain gradient. It compares stored numbers only."""
    with np.errstate(invalid="ignore"):  # ml_dtypes warns about NaN
        mask: NDArray[np.bool_] = ((after > before) & (retain > 0)) | ((after < before) & (retain < 0))
    return mask


def history(pair: GradientPair, steps: int) -> list[GradientPair]:
    """Return the pairs of a run whose last step has a given pair.

    The steps before have the same numbers at other coordinates, every other one with the retain gradient turned around, so that
    momentum points the wrong way often.
    """
    earlier = [
        GradientPair(
            np.roll(pair.forget, ago),
            np.roll(-pair.retain if ago % 2 else pair.retain, ago),
            pair.alpha,
            pair.gamma,
            pair.groups,
        )
        for ago in range(steps - 1, 0, -1)
    ]
    return [*earlier, pair]


def take(
    combine: Callable[[GradientPair], Array], run: Run, pairs: Sequence[GradientPair], start: Array | None = None
) -> Step:
    """Make one step for each pair of gradients, from a fresh optimiser on, and return the last one.

    Args:
        combine: Returns the stored update of a pair.
        run: The optimiser; its number of steps is that of the pairs here.
        pairs: The gradients of each step.
        start: The parameters before the first step; None: small numbers of both signs.
    """
    like = pairs[0].retain
    if start is None:
        start = np.array(list(islice(cycle(_START), len(like)))).astype(like.dtype)
    parameters = [part.requires_grad_() for part in _parts(start, run.only_matrices)]
    optimizer = run.make(list(parameters))
    for pair in pairs:
        update = combine(pair)
        for parameter, gradient in zip(parameters, _parts(update, run.only_matrices), strict=True):
            parameter.grad = gradient
        before = [parameter.detach().clone() for parameter in parameters]
        optimizer.step()
        moved = [parameter.detach().clone() for parameter in parameters]
        if run.guard is not None:
            read = _parts(pair.retain, run.only_matrices)
            if run.guard.reads == "update":
                read = [parameter.grad for parameter in parameters if parameter.grad is not None]
            run.guard.call(before, [parameter.detach() for parameter in parameters], read)
    return Step(run, update, _flat(before), _flat(moved), _flat(parameters), tuple(pairs[:-1]))


def _parts(array: Array, only_matrices: bool) -> list[Tensor]:
    """Split a flat array into a vector and a matrix, as a model has both; an optimiser sees them as two parameters."""
    third = len(array) // 3
    parts = [as_tensor(part) for part in (array[:third], array[third:]) if len(part)]
    rows = 2 if len(parts[-1]) % 2 == 0 else 1
    parts[-1] = parts[-1].reshape(rows, -1)
    return [part.reshape(1, -1) if only_matrices and part.dim() == 1 else part for part in parts]


def _flat(parts: Sequence[Tensor]) -> Array:
    return np.concatenate([as_array(part) for part in parts])
