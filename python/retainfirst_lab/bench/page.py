"""Insert the tables of benchmark reports into a page.

The page needs the markers of :mod:`retainfirst_lab.report.page`, with the name of the benchmark::

    python -m retainfirst_lab.bench.page docs/performance.md outputs/bench/combine.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from retainfirst_lab.bench.tables import markdown
from retainfirst_lab.report import page as pages

__all__ = ["insert"]


def insert(page: str, report: Mapping[str, Any]) -> str:
    """Return a page with the tables of a report between their markers.

    Raises:
        RetainFirstError: The page has no such markers.
    """
    return pages.insert(page, _name(report), markdown(report))


def _name(report: Mapping[str, Any]) -> str:
    return str(report["benchmark"]) + ("" if report["machine"]["device"] == "cpu" else " on a GPU")


def main(page: Path, reports: list[Path]) -> None:
    """Insert the tables of reports into a page.

    Args:
        page: The page to change.
        reports: Files that ``retainfirst bench`` wrote.
    """
    for file in reports:
        report = json.loads(file.read_text(encoding="utf-8"))
        pages.rewrite(page, _name(report), markdown(report))


if __name__ == "__main__":
    typer.run(main)
