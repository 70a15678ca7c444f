"""What ``retainfirst evaluate`` shows of an evaluation of rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from retainfirst.errors import RetainFirstError
from retainfirst.evaluation import Evaluation, table_headings, table_lines, verdicts

__all__ = ["report_files", "report_folder", "show_rows", "show_verdicts"]


def show_rows(found: Evaluation) -> None:
    """Print the table and the verdicts."""
    console = Console()
    table = Table()
    table.add_column("set", no_wrap=True)
    table.add_column("metric")
    for name in table_headings(found):
        table.add_column(name, justify="right")
    last = ""
    for one in table_lines(found):
        if last and one.set != last:
            table.add_section()
        table.add_row("" if one.set == last else one.set.replace("_", " "), one.title, *one.cells(intervals=False))
        last = one.set
    # A table that is too wide for the terminal would be cut; it is printed whole where nobody looks at a terminal.
    (console if console.is_terminal else Console(width=2000, file=sys.stdout)).print(table)
    show_verdicts([asdict(one) for one in verdicts(found)])


def show_verdicts(found: Sequence[Mapping[str, str]]) -> None:
    """Print verdicts, as ``evaluation.json`` has them."""
    console = Console(soft_wrap=True)
    for one in found:
        console.print(f"{one['question']} [bold]{one['answer']}[/]. ", end="", highlight=False)
        console.print(one["text"], markup=False, highlight=False)


def report_files(folder: Path) -> dict[Path, str]:
    """Return what is in each file of the report."""
    return {
        folder / "evaluation.html": "the evaluation: verdicts, tables, answers, figures",
        folder / "evaluation.json": "every number and every answer",
    }


def report_folder(folder: Path) -> None:
    """Make the folder of the report.

    Raises:
        RetainFirstError: It is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetainFirstError(f"--report {folder} cannot be written: {error.strerror or error}.") from error
