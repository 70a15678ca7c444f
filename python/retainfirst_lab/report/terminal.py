"""Tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable

from retainfirst_lab.report.table import Table

__all__ = ["show"]


def show(table: Table, console: Console, words: int = 1) -> None:
    """Print a table; of one without rows the title alone.

    Args:
        table: What to print.
        console: Where.
        words: So many of the first columns are words, which stand on the left; the others are numbers.
    """
    shown = RichTable(title=table.title)
    for i, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if i < words else "right", overflow="fold", no_wrap=i < words)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown if table.rows else table.title)
    if table.note:
        console.print(table.note, highlight=False)
