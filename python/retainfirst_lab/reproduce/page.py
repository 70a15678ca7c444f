"""Insert the tables of a run into a page.

The page needs the markers of :mod:`retainfirst_lab.report.page`, with the name of the tier, and with its name and `` guard``
for the part on the guard::

    python -m retainfirst_lab.reproduce.page docs/reproduction.md outputs/full/results.json --figures docs/figures
"""

from __future__ import annotations

import json
from pathlib import Path

import typer

from retainfirst_lab.report.page import rewrite
from retainfirst_lab.reproduce.figures import frontier_figure, sweep_figure
from retainfirst_lab.reproduce.guard_figure import guard_figure
from retainfirst_lab.reproduce.report import render_markdown

__all__: list[str] = []


def main(page: Path, results: list[Path], figures: Path | None = None) -> None:
    """Insert the tables of runs into a page.

    Args:
        page: The page to change.
        results: Files named results.json.
        figures: A folder for the figures of the page: the frontiers, the sweep, and that of the guard, where there are such.
    """
    for file in results:
        found = json.loads(file.read_text(encoding="utf-8"))
        made = {}
        if found["cells"]:
            rewrite(page, found["tier"], render_markdown(found, "### {}", ["combiners"]))
            made = {"frontier": frontier_figure, "sweep": sweep_figure}
        if found.get("guard"):
            rewrite(page, f"{found['tier']} guard", render_markdown(found, "### {}", ["guard"]))
            made["guard"] = guard_figure
        if figures is None:
            continue
        for name, figure in ((name, draw(found)) for name, draw in made.items()):
            if figure is not None:
                figure.savefig(figures / f"{found['tier']}_{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(main)
