"""``report.md``: the tables, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retainfirst_lab.reproduce.table_parts import Table
from retainfirst_lab.reproduce.tables import all_tables

__all__ = ["facts_of_the_run", "render_markdown", "table_as_markdown"]


def render_markdown(results: Mapping[str, Any]) -> str:
    """Return the report of a run.

    Args:
        results: What ``results.json`` holds.
    """
    parts = [f"# Reproduction, tier {results['tier']}"]
    parts += [f"## {table.title}\n\n{table_as_markdown(table)}\n\n{table.note}" for table in all_tables(results)]
    run = "\n".join(f"- {name}: {value}" for name, value in facts_of_the_run(results).items())
    return "\n\n".join([*parts, f"## The run\n\n{run}"]) + "\n"


def table_as_markdown(table: Table) -> str:
    """Return the table alone."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts_of_the_run(results: Mapping[str, Any]) -> dict[str, str]:
    """Return what a reader needs to run it again."""
    unfinished = sum(not one["reached"] for one in results["cells"])
    return {
        "command": f"`{results['command']}`",
        "date": results["date"],
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "machine": f"{results['machine']['processor']}, {results['machine']['cores']} cores,"
        f" {results['machine']['threads'] or 'all'} thread(s) a run",
        "seeds reported on": ", ".join(map(str, results["seeds"])),
        "seeds to choose settings on": ", ".join(map(str, results["development_seeds"])) or "none: common settings",
        "runs": f"{len(results['cells'])} of {results['planned']}, of which {unfinished} did not reach the target and"
        " are left out of the comparisons",
        "lm-eval": "judged every end model; largest difference from the accuracies along the path:"
        f" {results['lm_eval_difference']:g}",
        "wall time of the last call": f"{results['wall_seconds'] / 60:.1f} minutes",
    }
