"""One table of all targets with the results of several runs.

A run is a folder of reports. The table goes between the markers ``<!-- begin summary -->`` and ``<!-- end summary -->``::

    python -m retainfirst_lab.bench.summary docs/performance.md outputs/first outputs/second
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from retainfirst.errors import RetainFirstError
from retainfirst_lab.bench.tables import conditions
from retainfirst_lab.bench.targets import Target, targets
from retainfirst_lab.report.markdown import lines
from retainfirst_lab.report.page import rewrite
from retainfirst_lab.report.table import number_cell

__all__ = ["summarise"]

_BENCHMARKS = ("combine", "step", "guard", "memory", "imports")


def summarise(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return a Markdown table with one line for each group of targets, and for each run the range of its medians.

    Args:
        runs: The reports of each run.
    """
    groups: dict[str, list[list[Target]]] = {}
    for i, reports in enumerate(runs):
        for one in (one for report in reports for one in targets(report)):
            groups.setdefault(one["group"], [[] for _ in runs])[i].append(one)
    columns = ["target", "at most"]
    for i in range(1, len(runs) + 1):
        columns += [f"run {i}, CPU time", f"run {i}, wall time", f"run {i}, met"]
    rows = []
    for group, found in groups.items():
        most = max(one["at_most"] for run in found for one in run)
        row = [group, f"{most:g}"]
        for run in found:
            row += [*(_range(run, kind) for kind in ("cpu", "wall")), f"{sum(one['met'] for one in run)} of {len(run)}"]
        rows.append(row)
    about = [f"Run {i}: {conditions(reports[0])}" for i, reports in enumerate(runs, 1)]
    return "\n\n".join([*about, ""]) + lines(columns, rows) + "\n"


def _range(run: Sequence[Target], kind: str) -> str:
    medians = sorted(one[kind] for one in run if one[kind] is not None)
    if not medians:
        return ""
    least, greatest = number_cell(medians[0]), number_cell(medians[-1])
    return least if least == greatest else f"{least} to {greatest}"


def main(page: Path, runs: list[Path]) -> None:
    """Insert the summary into a page.

    Args:
        page: The page to change.
        runs: Output folders of ``retainfirst bench``, one for each run.
    """
    reports = [
        [
            json.loads(file.read_text(encoding="utf-8"))
            for name in _BENCHMARKS
            if (file := run / f"{name}.json").is_file()
        ]
        for run in runs
    ]
    for run, found in zip(runs, reports, strict=True):
        if not found:
            raise RetainFirstError(
                f"{run} holds no report of {', '.join(_BENCHMARKS)}; run retainfirst bench --output {run}"
            )
    rewrite(page, "summary", summarise(reports))


if __name__ == "__main__":
    typer.run(main)
