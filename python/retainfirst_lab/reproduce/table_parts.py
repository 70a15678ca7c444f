"""What the tables are made of: names, numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retainfirst_lab.reproduce.design import RULES

__all__ = [
    "NAMES",
    "Results",
    "Table",
    "at_common",
    "difference_cell",
    "in_order",
    "name_cells",
    "number_cell",
    "summary_rows",
    "target_accuracy",
]

NAMES = {
    "ga": "GA + GD",
    "npo": "NPO + GD",
    "simnpo": "SimNPO + GD",
    "rmu": "RMU",
    "sum": "naive (sum)",
    "pcgrad": "PCGrad",
    "pcgrad_module": "PCGrad, module",
    "pcgrad_block": "PCGrad, block",
    "pcgrad_global": "PCGrad, global",
    "sago": "SAGO",
    "sago_keep_retain": "SAGO, keep retain",
    "blur": "BLUR",
}
"""How tables and figures call objectives and rules."""

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: What it shows.
        note: How to read it.
        columns: Headings.
        rows: Cells; ``""`` where there is nothing.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def summary_rows(results: Results, which: str, bench: str) -> Sequence[Mapping[str, Any]]:
    """The rows of a summary that are about one bench, in the order of the main table."""
    return sorted((row for row in results["summary"][which] if row["bench"] == bench), key=in_order)


def in_order(row: Mapping[str, Any]) -> tuple[int, int]:
    """Where a row belongs: by objective, then by rule."""
    return list(NAMES).index(row["objective"]), list(RULES).index(row["rule"])


def at_common(results: Results, row: Mapping[str, Any]) -> bool:
    """Whether a row is at the settings that all rules share."""
    return all(row[name] == value for name, value in results["common"].items())


def name_cells(row: Mapping[str, Any]) -> list[str]:
    """Objective and rule of a row, as tables call them."""
    return [NAMES[row["objective"]], NAMES[row["rule"]]]


def number_cell(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    """Mean and standard deviation of a number of a row; blank if there is none."""
    number = row["numbers"].get(name)
    if number is None:
        return ""
    digits = {"steps": 0, "seconds": 1}.get(name, 2 if "cos" in name else 3)
    spread = "" if number["sd"] is None else f" ± {number['sd']:.{digits}f}"
    return f"{number['mean']:{sign}.{digits}f}{spread}"


def difference_cell(found: Mapping[str, Any], *, stars: bool = False) -> str:
    """A paired difference with its interval; with ``stars`` in brackets where no difference was seen."""
    digits = 1 if found["measure"] == "steps" else 3
    text = f"{found['mean']:+.{digits}f}"
    if found["low"] is not None:
        text += f" [{found['low']:+.{digits}f}, {found['high']:+.{digits}f}]"
    return f"({text})" if stars and found["verdict"] == "no difference seen" else text


def target_accuracy(results: Results) -> float:
    """The forget accuracy at which results are compared."""
    return float(results["identity"]["sizes"]["target"])
