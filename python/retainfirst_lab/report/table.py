"""The table that every report is made of, and the text of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Table", "count_cell", "number_cell", "spread_cell"]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: The subject.
        columns: Headings.
        rows: Cells; ``""`` where there is no value.
        note: How to read it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def number_cell(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals; ``""`` for None."""
    return "" if value is None else f"{value:.{digits}f}"


def spread_cell(found: Mapping[str, float] | None, digits: int = 2) -> str:
    """Return ``median (least-greatest)``; ``""`` for None."""
    if found is None:
        return ""
    median, least, greatest = (f"{found[name]:.{digits}f}" for name in ("median", "least", "greatest"))
    return f"{median} ({least}-{greatest})"


def count_cell(n: int) -> str:
    """Return a count with a unit, such as ``100 M`` or ``10 k``."""
    for unit, letter in ((10**6, " M"), (10**3, " k")):
        if n >= unit:
            return f"{n / unit:g}{letter}"
    return str(n)
