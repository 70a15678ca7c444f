"""Insert the tables of a run into a page.

The page has markers of :mod:`retainfirst_lab.report.page`: with the name of the tier for the combiners, and with its name and
the part's for the others. The results of a part without markers are left out::

    python -m retainfirst_lab.reproduce.page docs/reproduction.md outputs/full/results.json --figures docs/figures
    python -m retainfirst_lab.reproduce.page docs/auditing.md outputs/attacks/results.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from retainfirst_lab.report.page import rewrite
from retainfirst_lab.reproduce.attack_figure import attack_figure
from retainfirst_lab.reproduce.figures import frontier_figure, sweep_figure
from retainfirst_lab.reproduce.guard_figure import guard_figure
from retainfirst_lab.reproduce.report import TABLES, render_markdown
from retainfirst_lab.reproduce.table_parts import Results

__all__: list[str] = []


FIGURES: Mapping[str, Mapping[str, Callable[[Results], Any]]] = {
    "combiners": {"frontier": frontier_figure, "sweep": sweep_figure},
    "guard": {"guard": guard_figure},
    "attacks": {"attacks": attack_figure},
}
"""By part and name, how to draw the figures of a page."""


def main(page: Path, results: list[Path], figures: Path | None = None) -> None:
    """Insert the tables of runs into a page.

    Args:
        page: The page to change.
        results: Files named results.json.
        figures: A folder for the figures of the parts that the page has markers for.
    """
    for file in results:
        found = json.loads(file.read_text(encoding="utf-8"))
        for part in _parts(found, page.read_text(encoding="utf-8")):
            rewrite(page, _place(found, part), render_markdown(found, "### {}", [part]))
            if figures is not None:
                _save(figures, found, part)


def _save(folder: Path, found: Results, part: str) -> None:
    for name, draw in FIGURES[part].items():
        figure = draw(found)
        if figure is not None:
            figure.savefig(folder / f"{found['tier']}_{name}.png", dpi=110, metadata={"Software": None})


def _place(found: Results, part: str) -> str:
    return str(found["tier"]) if part == "combiners" else f"{found['tier']} {part}"


def _parts(found: Results, page: str) -> list[str]:
    """The parts of a run that the page has markers for; if it has none, all, so that the first is missed by name."""
    run = [part for part in TABLES if found.get("cells" if part == "combiners" else part)]
    return [part for part in run if f"<!-- begin {_place(found, part)} -->" in page] or run


if __name__ == "__main__":
    typer.run(main)
