"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from retainfirst_lab.report.table import Table

__all__ = ["lines", "render"]


def lines(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the lines of a table, without title and note."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows))


def render(tables: Iterable[Table], heading: str = "## {}") -> str:
    """Return tables one below the other, each with its title above and its note below; of one without rows the title alone.

    Args:
        tables: The tables.
        heading: The line of a title.
    """
    parts = []
    for table in tables:
        parts.append(heading.format(table.title))
        if table.rows:
            parts.append(lines(table.columns, table.rows))
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts)
