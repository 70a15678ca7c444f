"""``report.html``: one file with the tables and the figures in it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from retainfirst.errors import require
from retainfirst_lab.reproduce.figures import figures
from retainfirst_lab.reproduce.markdown import facts_of_the_run
from retainfirst_lab.reproduce.tables import all_tables

__all__ = ["render_html"]


def render_html(results: Mapping[str, Any]) -> str:
    """Return the report of a run as a page that needs no other file.

    Args:
        results: What ``results.json`` holds.

    Raises:
        MissingDependency: matplotlib is not installed (extra ``plot``).
    """
    jinja2 = require("jinja2", "plot")
    template = files("retainfirst_lab.reproduce").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page: str = environment.from_string(template).render(
        tier=results["tier"], tables=all_tables(results), figures=figures(results), run=facts_of_the_run(results)
    )
    return page + "\n"
