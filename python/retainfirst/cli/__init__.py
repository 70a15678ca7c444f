"""The ``retainfirst`` command, with one file for each subcommand."""

from __future__ import annotations

import os
import sys

import torch
import typer
from rich.console import Console

from retainfirst import __version__, extension
from retainfirst.cli._bench import bench
from retainfirst.cli._doctor import doctor
from retainfirst.cli._evaluate import evaluate
from retainfirst.cli._reproduce import reproduce
from retainfirst.cli._run import SCRIPT_SETTINGS, run
from retainfirst.cli._unlearn import unlearn
from retainfirst.cli._verify import verify
from retainfirst.errors import RetainFirstError
from retainfirst.unlearning import Interrupted

__all__ = ["app", "main", "run_app"]

app = typer.Typer(
    name="retainfirst",
    help="Unlearning of language models that gives retention priority: its updates do not work against retaining.",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(unlearn)
app.command()(evaluate)
app.command(context_settings=SCRIPT_SETTINGS)(run)
app.command()(reproduce)
app.command()(verify)
app.add_typer(bench)
app.command()(doctor)

run_app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
run_app.command("retainfirst.run", context_settings=SCRIPT_SETTINGS)(run)


_THINGS_TO_DO = """\
Make a language model forget something without losing what it can do.

Try it on a small built-in model, in a minute:
  retainfirst unlearn --output first

Unlearn your own model, from two files of JSON lines ({"question": ..., "answer": ...}, {"text": ...}, ...):
  retainfirst unlearn --model ./model --forget forget.jsonl --retain retain.jsonl --output ./unlearned

See what is installed, what works on this machine, and what is missing for what:
  retainfirst doctor

retainfirst --help lists all commands; retainfirst COMMAND --help has options and examples."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"retainfirst {__version__}, torch {torch.__version__}, {_extension()}")
        raise typer.Exit


def _extension() -> str:
    if not extension.AVAILABLE:
        return "no extension"
    return f"extension {getattr(extension.rust, '__version__', 'of an earlier version')}"


@app.callback(invoke_without_command=True)
def _common(
    context: typer.Context,
    version: bool = typer.Option(  # noqa: ARG001 - its callback reads it
        False,
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Print the versions of this, torch and the extension.",
    ),
) -> None:
    if context.invoked_subcommand is None:
        print(_THINGS_TO_DO)


def main(command: typer.Typer = app) -> None:
    """Run a command and exit with 0 (done), 1 (a check failed), 2 (bad use or bad input) or 130 (interrupted)."""
    error_console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not error_console.is_terminal:
        # Bars that Hugging Face's libraries draw would fill a log, which has this command's own lines.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        command()
    except RetainFirstError as error:
        error_console.print("[bold red]error:[/] ", end="")
        error_console.print(str(error), markup=False)
        sys.exit(130 if isinstance(error, Interrupted) else 2)
    except KeyboardInterrupt:
        error_console.print("interrupted")
        sys.exit(130)
