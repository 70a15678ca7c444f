"""Weights that change during a run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from retainfirst.errors import RetainFirstError

__all__ = ["Linear", "Weight", "ends", "parse_weight", "weight_at"]

Weight = float | Callable[[int], float]
"""A weight, or a function from the number of finished optimiser steps to a weight."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LINEAR = re.compile(rf"({_NUMBER}):({_NUMBER}):(\d+)")


@dataclass(frozen=True)
class Linear:
    """A weight that moves linearly from ``start`` to ``end`` within ``steps`` optimiser steps, and stays there.

    Args:
        start: The weight of the first step.
        end: The weight from step ``steps`` on (counted from 0).
        steps: At least 1.

    Raises:
        RetainFirstError: A number is not finite, or ``steps`` is below 1.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)) or self.steps < 1:
            raise RetainFirstError(f"{self} needs finite weights and at least 1 step")

    def __call__(self, step: int) -> float:
        """Return the weight after ``step`` finished optimiser steps."""
        share = min(step / self.steps, 1.0)
        return (1 - share) * self.start + share * self.end


def weight_at(weight: Weight, step: int) -> float:
    """Return a weight after ``step`` finished optimiser steps."""
    return weight(step) if callable(weight) else weight


def ends(weight: Weight) -> tuple[float, ...]:
    """Return the weights between which all weights of a run lie, as far as they are known before it.

    That is the start and the end of :class:`Linear`; of another function, what it gives for the first step.
    """
    return (weight.start, weight.end) if isinstance(weight, Linear) else (weight_at(weight, 0),)


def parse_weight(text: str | float) -> Weight:
    """Read a weight as a command line or a configuration file gives it.

    Args:
        text: A number, or ``"START:END:STEPS"`` for :class:`Linear`.

    Raises:
        RetainFirstError: It is neither.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return text
    text = str(text)
    if found := _LINEAR.fullmatch(text):
        return Linear(float(found[1]), float(found[2]), int(found[3]))
    if re.fullmatch(_NUMBER, text):
        return float(text)
    raise RetainFirstError(f"{text!r} is no weight; give a number, or START:END:STEPS for one that changes linearly")
