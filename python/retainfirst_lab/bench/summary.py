"""The targets beside what several runs found, in one table of a page.

Each run is a folder of reports; the page has the lines ``<!-- begin summary -->`` and ``<!-- end summary -->``::

    python -m retainfirst_lab.bench.summary docs/performance.md outputs/first outputs/second
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from retainfirst.errors import RetainFirstError
from retainfirst_lab.bench.page import put
from retainfirst_lab.bench.tables import conditions, markdown_table
from retainfirst_lab.bench.targets import Target, targets

__all__ = ["summarise"]

_BENCHMARKS = ("combine", "step", "memory", "imports")


def summarise(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return a table in Markdown: a line for each group of targets, with the medians that each run found for it.

    Args:
        runs: The reports of each run.
    """
    groups: dict[str, list[list[Target]]] = {}
    for i, reports in enumerate(runs):
        for one in (one for report in reports for one in targets(report)):
            groups.setdefault(one["group"], [[] for _ in runs])[i].append(one)
    columns = ["what", "at most"]
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
    return "\n\n".join([*about, ""]) + markdown_table(columns, rows) + "\n"


def _range(run: Sequence[Target], kind: str) -> str:
    medians = sorted(one[kind] for one in run if one[kind] is not None)
    if not medians:
        return ""
    least, greatest = (f"{value:.2f}" for value in (medians[0], medians[-1]))
    return least if least == greatest else f"{least} to {greatest}"


def main(page: Path, runs: list[Path]) -> None:
    """Put the summary into a page.

    Args:
        page: The page to change.
        runs: The folders that ``retainfirst bench --output`` filled, one for each run.
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
    page.write_text(put(page.read_text(encoding="utf-8"), "summary", summarise(reports)), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
