"""The errors that retainfirst raises for bad input and misuse.

They share one base class, so that callers can catch them all. Each text names the input, what was found and what to do.
"""

from __future__ import annotations

import difflib
import importlib
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
    """Return a sentence with the known names, and the nearest one to ``name`` if one is near.

    Args:
        name: What the user wrote.
        known: The accepted names.

    Returns:
        For example ``"Did you mean 'pcgrad'? Known: sum, pcgrad, sago."``.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names)}."


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
