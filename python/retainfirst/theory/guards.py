"""The library's guard in the form in which T11 and T12 judge it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from retainfirst import guard_step_, kernels

__all__ = ["BY_RETAIN", "BY_UPDATE", "JudgedGuard"]


@dataclass(frozen=True)
class JudgedGuard:
    """A guard as it is judged.

    Attributes:
        name: Its name in tables and texts.
        reads: Whether it compares the step with the retain gradient (T11), or with the update in ``.grad`` (T12, SAGO only).
        call: ``call(before, after, read)`` overwrites ``after``. Each is a sequence of tensors, one for each parameter.
    """

    name: str
    reads: Literal["retain", "update"]
    call: Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], object]


def _by_update(before: Sequence[Tensor], after: Sequence[Tensor], update: Sequence[Tensor]) -> None:
    kernels.guard_(before, after, signs=update, zeros=True)


BY_RETAIN = JudgedGuard("guard", "retain", guard_step_)
"""Reads the retain gradient; for every combiner."""

BY_UPDATE = JudgedGuard("guard by .grad", "update", _by_update)
"""Reads the update; for both forms of SAGO."""
