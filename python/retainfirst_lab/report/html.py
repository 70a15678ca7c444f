"""Tables and figures as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from retainfirst.errors import require
from retainfirst_lab.report.table import Table

__all__ = ["render"]


def render(
    title: str, tables: Sequence[Table], figures: Mapping[str, str], run: Mapping[str, str], before_figures: int = 2
) -> str:
    """Return a page that needs no other file.

    Args:
        title: Of the page.
        tables: The tables in order.
        figures: SVG text by caption.
        run: Facts about the run, by name.
        before_figures: How many tables stand above the figures.

    Raises:
        MissingDependency: jinja2 is not installed (extra ``plot``).
    """
    jinja2 = require("jinja2", "plot")
    template = files("retainfirst_lab.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page: str = environment.from_string(template).render(
        title=title, above=tables[:before_figures], below=tables[before_figures:], figures=figures, run=run
    )
    return page + "\n"
