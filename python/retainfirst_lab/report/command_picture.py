"""A picture of a command and of what it prints, as an SVG that loads nothing.

    python -m retainfirst_lab.report.command_picture docs/figures/unlearn.svg retainfirst unlearn

The command is run. What it prints to standard output is drawn as a terminal would show it.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from retainfirst.errors import RetainFirstError
from retainfirst.files import write_whole

__all__ = ["draw", "printed"]

WIDTH = 92
"""Columns of the terminal."""

# The format asks a host for its font, which a page must not do; a reader's own fixed-width font does.
_RICH = inspect.signature(Console.export_svg).parameters["code_format"].default
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", _RICH, flags=re.DOTALL).replace(
    "Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono"
)


def draw(command: Sequence[str], text: str) -> str:
    """Return the picture.

    Args:
        command: The command, shown in the first line.
        text: What it printed; colours as a terminal reads them.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {shlex.join(command)}", style="bold"))
    console.print(Text.from_ansi(text.rstrip()))
    return console.export_svg(title=command[0], theme=DIMMED_MONOKAI, code_format=_FORMAT, unique_id="command")


def printed(command: Sequence[str]) -> str:
    """Run a command and return what it printed to standard output.

    Raises:
        RetainFirstError: It failed.
    """
    environment = {**os.environ, "COLUMNS": str(WIDTH), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RetainFirstError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    picture, *arguments = sys.argv[1:]
    write_whole(Path(picture), draw(arguments, printed(arguments)))
