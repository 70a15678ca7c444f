"""Names, rows and cells of the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retainfirst_lab.reproduce.design import VARIANTS

__all__ = [
    "GUARD_NAMES",
    "NAMES",
    "Results",
    "at_common",
    "difference_cell",
    "in_order",
    "mean_cell",
    "name_cells",
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
"""The names of objectives and variants in tables and figures."""

GUARD_NAMES = {"off": "off", "enforce": "on"}

Results = Mapping[str, Any]


def summary_rows(results: Results, which: str, testbed: str) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a summary for one test bed, in the order of the main table."""
    return sorted((row for row in results["summary"][which] if row["testbed"] == testbed), key=in_order)


def in_order(row: Mapping[str, Any]) -> tuple[int, int]:
    """Return the sort key of a row: by objective, then by variant."""
    return list(NAMES).index(row["objective"]), list(VARIANTS).index(row["variant"])


def at_common(results: Results, row: Mapping[str, Any]) -> bool:
    """Return whether a row is at the common settings."""
    return all(row[name] == value for name, value in results["common"].items())


def name_cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a row's objective and variant."""
    return [NAMES[row["objective"]], NAMES[row["variant"]]]


def mean_cell(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    """Return the cell of a number: mean and standard deviation; ``""`` if the row has no such number."""
    number = row["numbers"].get(name)
    if number is None:
        return ""
    digits = {"steps": 0, "seconds": 1}.get(name, 2 if "cos" in name else 3)
    spread = "" if number["sd"] is None else f" ± {number['sd']:.{digits}f}"
    return f"{number['mean']:{sign}.{digits}f}{spread}"


def difference_cell(found: Mapping[str, Any], *, brackets: bool = False) -> str:
    """Return the cell of a paired difference and its interval.

    Args:
        found: A row of the comparisons.
        brackets: Put a difference into brackets if none is seen.
    """
    digits = 1 if found["measure"] == "steps" else 3
    text = f"{found['mean']:+.{digits}f}"
    if found["low"] is not None:
        text += f" [{found['low']:+.{digits}f}, {found['high']:+.{digits}f}]"
    return f"({text})" if brackets and found["verdict"] == "no difference seen" else text


def target_accuracy(results: Results) -> float:
    """Return the forget accuracy at which results are compared."""
    return float(results["identity"]["sizes"]["target"])
