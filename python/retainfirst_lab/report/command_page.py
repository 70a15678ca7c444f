"""The reference of the command as Markdown, from the source of ``--help``.

``python -m retainfirst_lab.report.command_page docs/reference/command.md`` writes it into the page.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from retainfirst.cli import app
from retainfirst_lab.report import markdown
from retainfirst_lab.report.page import rewrite

__all__ = ["as_markdown"]


def as_markdown() -> str:
    """Return a section for each subcommand: usage, help, and a table of its options."""
    return "\n\n".join(_section(name, one) for name, one in _subcommands("retainfirst", typer.main.get_command(app)))


def _subcommands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands that do something, with their whole names."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, sub in command.commands.items():
        yield from _subcommands(f"{name} {part}", sub)


def _section(name: str, command: Any) -> str:
    options = [one for one in command.params if one.param_type_name == "option"]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    usage = " ".join([name, "[OPTIONS]", *(str(one.name).upper() for one in arguments)])
    rows = [[", ".join(f"`{flag}`" for flag in _flags(one)), _meaning(one)] for one in options]
    parts = [f"## {name}", f"```text\n{usage}\n```", _help(command.help or "")]
    return "\n\n".join([*parts, markdown.lines(["option", "meaning"], rows)])


def _help(text: str) -> str:
    """Return a help text; the lines of a command that it shows become one block of code."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", inspect.cleandoc(text).replace("\f", "")))
    return "\n\n".join(
        f"```text\n{one}\n```" if one.startswith("retainfirst ") else one.replace("<", "&lt;") for one in paragraphs
    )


def _flags(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _meaning(option: Any) -> str:
    """Return the help of an option with its default, as a text that can stand in a cell of a table."""
    text = " ".join((option.help or "").split()).replace("|", "\\|").replace("<", "&lt;")
    if option.required:
        return f"{text} [required]"
    plain = isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
    return f"{text} [default: {option.default}]" if plain and "[default" not in text else text


if __name__ == "__main__":
    for page in sys.argv[1:]:
        rewrite(Path(page), "command", as_markdown())
