"""Put the tables of reports into a page that people read.

The page has a line ``<!-- begin NAME -->`` and one ``<!-- end NAME -->`` for each benchmark; what stands between them is
replaced::

    python -m retainfirst_lab.bench.page docs/performance.md outputs/bench/combine.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from retainfirst.errors import RetainFirstError
from retainfirst_lab.bench.tables import markdown

__all__ = ["insert", "put"]


def insert(page: str, report: Mapping[str, Any]) -> str:
    """Return a page with a report's tables in their place.

    Raises:
        RetainFirstError: The page has no place for them.
    """
    return put(
        page, report["benchmark"] + ("" if report["machine"]["device"] == "cpu" else " on a GPU"), markdown(report)
    )


def put(page: str, name: str, text: str) -> str:
    """Return a page with a text in the place of that name.

    Raises:
        RetainFirstError: There is no such place.
    """
    begin, end = (f"<!-- {word} {name} -->\n" for word in ("begin", "end"))
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise RetainFirstError(f"The page has no place for {name}: lines {begin.strip()} and {end.strip()}.")
    return before + begin + "\n" + text + "\n" + end + after


def main(page: Path, reports: list[Path]) -> None:
    """Put the tables of reports into a page.

    Args:
        page: The page to change.
        reports: Files that ``retainfirst bench`` wrote.
    """
    for file in reports:
        text = insert(page.read_text(encoding="utf-8"), json.loads(file.read_text(encoding="utf-8")))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
