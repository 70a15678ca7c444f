"""Put a run's tables into a page that people read.

The page has a line ``<!-- begin TIER -->`` and one ``<!-- end TIER -->``; what stands between them is replaced::

    python -m retainfirst_lab.reproduce.page docs/reproduction.md outputs/full/results.json --figures docs/figures
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from retainfirst.errors import RetainFirstError
from retainfirst_lab.reproduce.figures import frontier_figure, sweep_figure
from retainfirst_lab.reproduce.markdown import render_markdown

__all__ = ["insert"]


def insert(page: str, results: Mapping[str, Any]) -> str:
    """Return a page with a run's report in its place.

    Args:
        page: The page's text.
        results: What ``results.json`` holds.

    Raises:
        RetainFirstError: The page has no place for the run's tier.
    """
    begin, end = (f"<!-- {word} {results['tier']} -->\n" for word in ("begin", "end"))
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise RetainFirstError(
            f"The page has no place for the tier {results['tier']}: lines {begin.strip()} and {end.strip()}."
        )
    _, _, report = render_markdown(results).partition("\n\n")  # without the page's own title
    return before + begin + "\n" + re.sub(r"(?m)^## ", "### ", report).strip() + "\n\n" + end + after


def main(page: Path, results: list[Path], figures: Path | None = None) -> None:
    """Put the tables of runs into a page.

    Args:
        page: The page to change.
        results: Files named results.json.
        figures: A folder for the figures that a page shows: frontiers and, where there is one, the sweep.
    """
    for file in results:
        found = json.loads(file.read_text(encoding="utf-8"))
        page.write_text(insert(page.read_text(encoding="utf-8"), found), encoding="utf-8")
        if figures is None:
            continue
        for name, figure in (("frontier", frontier_figure(found)), ("sweep", sweep_figure(found))):
            if figure is not None:
                figure.savefig(figures / f"{found['tier']}_{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(main)
