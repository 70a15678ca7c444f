"""The errors that retainfirst raises for bad input and misuse.

They share one base class, so that callers can catch them all. Each text names the input, what was found and what to do.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DtypeMismatch",
    "MissingDependency",
    "NonFiniteGradient",
    "RetainFirstError",
    "ShapeMismatch",
    "StaleGradient",
    "StatementViolated",
    "UnknownCombiner",
    "did_you_mean",
    "require",
]


class RetainFirstError(ValueError):
    """Base of all errors that retainfirst raises for bad input or misuse."""


class ShapeMismatch(RetainFirstError):
    """Forget and retain differ in shape, length or structure."""


class DtypeMismatch(RetainFirstError):
    """A dtype or a device is unsupported, or differs between forget and retain."""


class UnknownCombiner(RetainFirstError):
    """A combiner's name is not in the registry."""


class StaleGradient(RetainFirstError):
    """A ``.grad`` is present or missing, although the two-gradient step must own it."""


class NonFiniteGradient(RetainFirstError):
    """A gradient holds NaN or infinity (raised only with ``check_finite``)."""


class StatementViolated(RetainFirstError, AssertionError):
    """A combiner breaks a statement of the theorem book.

    Attributes:
        statement: The statement's number, such as ``"T1"``.
        forget: Forget gradient of the simplest counterexample, shape ``[n]``.
        retain: Its retain gradient, likewise.
        update: The combiner's update; None if the formula was judged without rounding.
        alpha: Weight of retain.
        gamma: Weight of forget.
        groups: ``(start, stop)`` pairs, one a group; empty: one group.
        optimizer: Of a statement about steps: the optimiser's name; else None.
        before: The parameters before the step, shape ``[n]``; else None.
        after: The parameters after it, likewise.
        earlier: The forget and the retain gradient of each step before, if any.
    """

    def __init__(
        self,
        text: str,
        *,
        statement: str,
        forget: Tensor,
        retain: Tensor,
        update: Tensor | None,
        alpha: float,
        gamma: float,
        groups: Sequence[tuple[int, int]] = (),
        optimizer: str | None = None,
        before: Tensor | None = None,
        after: Tensor | None = None,
        earlier: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        super().__init__(text)
        self.statement, self.forget, self.retain, self.update = statement, forget, retain, update
        self.alpha, self.gamma, self.groups = alpha, gamma, list(groups)
        self.optimizer, self.before, self.after, self.earlier = optimizer, before, after, list(earlier)


class MissingDependency(RetainFirstError, ImportError):
    """An optional library is not installed; the text names the extra that brings it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known names, and the nearest one if ``name`` looks like a slip of it.

    Args:
        name: What the user wrote.
        known: The accepted names.

    Returns:
        For example ``"Did you mean 'pcgrad'? Known: sum, pcgrad, sago."``.
    """
    names = list(known)
    near = [other for other in names if _is_slip(name, other)]
    hint = f"Did you mean {min(near, key=lambda other: _edits(name, other))!r}? " if near else ""
    return f"{hint}Known: {', '.join(names)}."


def _is_slip(written: str, meant: str) -> bool:
    """Tell whether a slip of the keys or an abbreviation explains the difference between two names.

    Case and separators aside: one edit for every four letters and at most three, one letter too many or too few, or a
    beginning or the skeleton of the other.
    """
    written, meant = (re.sub(r"[\W_]", "", name).casefold() for name in (written, meant))
    if not written or not meant:
        return False
    edits = _edits(written, meant)
    one_letter = edits == 1 and len(written) != len(meant) and min(len(written), len(meant)) > 1
    if edits <= min(max(len(written), len(meant)) // 4, 3) or one_letter:
        return True
    short, long = sorted((written, meant), key=len)
    return len(short) > 3 and (long.startswith(short) or _leaves_out(short, long))


def _leaves_out(short: str, long: str) -> bool:
    """Tell whether one name is the other without some letters inside."""
    left = iter(long)
    return (short[0], short[-1]) == (long[0], long[-1]) and all(letter in left for letter in short)


def _edits(a: str, b: str) -> int:
    """Return how many letters must be inserted, deleted, replaced or swapped with their neighbour to turn one into the other."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        further = [i]
        for j, y in enumerate(b, start=1):
            cost = min(row[j] + 1, further[-1] + 1, row[j - 1] + (x != y))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                cost = min(cost, before[j - 2] + 1)
            further.append(cost)
        before, row = row, further
    return row[-1]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: Dotted module name, such as ``"transformers"``.
        extra: The extra of this distribution that depends on it, such as ``"hf"``.

    Returns:
        The imported module.

    Raises:
        MissingDependency: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependency(
            f"{module!r} is not installed. Install it with: pip install 'retainfirst[{extra}]'"
        ) from error
