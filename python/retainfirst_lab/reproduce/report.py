"""``report.md`` and ``report.html`` of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retainfirst_lab.report import Table, html, markdown
from retainfirst_lab.reproduce.attack_tables import attack_tables
from retainfirst_lab.reproduce.figures import figures
from retainfirst_lab.reproduce.guard_tables import guard_tables
from retainfirst_lab.reproduce.tables import all_tables

__all__ = ["TABLES", "render_html", "render_markdown", "run_facts"]

TABLES = {"combiners": all_tables, "guard": guard_tables, "attacks": attack_tables}
"""The tables of each part of a tier."""


def render_markdown(results: Mapping[str, Any], heading: str = "## {}", parts: Iterable[str] = TABLES) -> str:
    """Return the tables of a run and the facts about it.

    Args:
        results: The contents of ``results.json``.
        heading: The line of a heading.
        parts: The parts of the tier.
    """
    run = "\n".join(f"- {name}: {value}" for name, value in run_facts(results).items())
    return f"{markdown.render(_tables(results, parts), heading)}\n\n{heading.format('The run')}\n\n{run}\n"


def _tables(results: Mapping[str, Any], parts: Iterable[str]) -> list[Table]:
    return [table for part in parts for table in TABLES[part](results)]


def render_html(results: Mapping[str, Any]) -> str:
    """Return tables, figures and facts of a run as one page that needs no other file.

    Args:
        results: The contents of ``results.json``.

    Raises:
        MissingDependency: matplotlib is not installed (extra ``plot``).
    """
    return html.render(title(results), _tables(results, TABLES), figures(results), run_facts(results))


def title(results: Mapping[str, Any]) -> str:
    """Return the title of a run's report."""
    return f"Reproduction, tier {results['tier']}"


def run_facts(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts that a reader needs to repeat the run, by name."""
    return {
        "command": f"`{results['command']}`",
        "date": results["date"],
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "machine": f"{results['machine']['processor']}, {results['machine']['cores']} cores,"
        f" {results['machine']['threads'] or 'all'} thread(s) per run",
        "seeds of the results": ", ".join(map(str, results["seeds"])),
        "seeds of the choice of settings": ", ".join(map(str, results["development_seeds"])) or "none: common settings",
        **_runs(results),
        "wall time of the last call": f"{results['wall_seconds'] / 60:.1f} minutes",
    }


def _runs(results: Mapping[str, Any]) -> dict[str, str]:
    """How many cells each part of the run has."""
    found = {}
    if results["planned"]:
        unfinished = sum(not one["reached"] for one in results["cells"])
        found["runs"] = (
            f"{len(results['cells'])} of {results['planned']}; {unfinished} did not reach the target and are left out of the"
            " comparisons"
        )
        found["lm-eval"] = (
            "judged every end model; largest difference from the accuracies along the path:"
            f" {results['lm_eval_difference']:g}"
        )
    for part, name in (("guard", "runs with a guard"), ("attacks", "runs under attack")):
        if results.get(part):
            cells = results[part]["cells"]
            late = sum(not one["reached"] for one in cells)
            found[name] = f"{len(cells)}; {late} did not reach the target"
    return found
