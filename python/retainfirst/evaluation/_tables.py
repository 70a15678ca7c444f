"""The table of an evaluation: a row for each set and metric, a column for each condition."""

from __future__ import annotations

import math
from dataclasses import dataclass

from retainfirst.evaluation._estimates import Estimate
from retainfirst.evaluation._evaluate import Evaluation
from retainfirst.evaluation._measure import METRICS
from retainfirst.evaluation._sets import SETS

__all__ = ["Line", "table_headings", "table_lines", "table_markdown"]


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        set: The set's name.
        metric: The metric's name.
        title: The metric in words.
        values: One for each condition; None where it was not measured.
    """

    set: str
    metric: str
    title: str
    values: tuple[Estimate | None, ...]

    def cells(self, *, intervals: bool) -> list[str]:
        """Return the values as text."""
        return ["" if value is None else _cell(value, intervals) for value in self.values]


def table_headings(found: Evaluation) -> list[str]:
    """Return the names of the conditions."""
    return [one.name for one in found.conditions]


def table_lines(found: Evaluation) -> list[Line]:
    """Return the rows that have a value in some condition."""
    made = []
    for name in SETS:
        for metric, title in METRICS.items():
            values = tuple(one.measured.estimates.get(name, {}).get(metric) for one in found.conditions)
            if any(value is not None for value in values):
                made.append(Line(name, metric, title, values))
    return made


def table_markdown(found: Evaluation, *, intervals: bool = False) -> str:
    """Return the table as Markdown."""
    columns = ["set", "metric", *table_headings(found)]
    rows = [[one.set.replace("_", " "), one.title, *one.cells(intervals=intervals)] for one in table_lines(found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def _cell(value: Estimate, intervals: bool) -> str:
    text = _number(value.value)
    if intervals and value.low is not None and value.high is not None:
        return f"{text} ({_number(value.low)} to {_number(value.high)})"
    return text


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.3g}" if value >= 100 else f"{value:.3f}"
