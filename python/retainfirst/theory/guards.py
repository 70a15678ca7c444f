"""The guard of T11 and T12, written out: it puts back each coordinate of a step that works against the retain gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["BY_RETAIN", "BY_UPDATE", "Guard"]


@dataclass(frozen=True)
class Guard:
    """A guard as it is judged.

    Attributes:
        name: Its name in tables and texts.
        reads: Whether it compares the step with the retain gradient (T11), or with the update in ``.grad`` (T12, SAGO only).
        call: ``call(before, after, read)`` overwrites ``after``. Each is a sequence of tensors, one for each parameter.
    """

    name: str
    reads: Literal["retain", "update"]
    call: Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], None]


def _by_retain(before: Sequence[Tensor], after: Sequence[Tensor], retain: Sequence[Tensor]) -> None:
    for old, new, r in zip(before, after, retain, strict=True):
        new.copy_(torch.where(_against(old, new, r), old, new))


def _by_update(before: Sequence[Tensor], after: Sequence[Tensor], update: Sequence[Tensor]) -> None:
    for old, new, u in zip(before, after, update, strict=True):
        unknown = (u == 0) & ~new.isnan()  # a zero says nothing about the sign of r
        new.copy_(torch.where(_against(old, new, u) | unknown, old, new))


def _against(before: Tensor, after: Tensor, sign: Tensor) -> Tensor:
    return ((after > before) & (sign > 0)) | ((after < before) & (sign < 0))


BY_RETAIN = Guard("guard", "retain", _by_retain)
"""Reads the retain gradient; for every combiner."""

BY_UPDATE = Guard("guard by .grad", "update", _by_update)
"""Reads the update; for both forms of SAGO."""
