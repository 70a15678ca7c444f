"""``retainfirst doctor``: what is installed, what works, and what is missing for what."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from retainfirst.doctor import Finding, examine
from retainfirst.errors import MissingDependency
from retainfirst.files import json_text
from retainfirst.progress import Progress

__all__ = ["doctor"]

_STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red"}


def doctor(
    output: Annotated[Path, typer.Option(help="A folder that results are to be written to.")] = Path(),
    open_unlearning: Annotated[
        Path | None, typer.Option(help="A checkout of open-unlearning, to see whether the plugin would find it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is installed, what works on this machine, and what is missing for what.

    It imports the optional libraries, and combines a pair of gradients on each device. What is missing is optional. What is
    broken must be mended: the exit code is then 1.

    Examples:

        retainfirst doctor

        retainfirst doctor --open-unlearning ./open-unlearning --json
    """  # noqa: D412 - the command's help text, not Google sections
    places = {"output": (output, "give a folder of your own: --output FOLDER")}
    if (cache := _cache()) is not None:
        places["cache"] = (cache, "set the environment variable RETAINFIRST_CACHE to a folder of your own")
    with Progress() as bar:
        found = examine(places, open_unlearning, bar.show)
    broken = sum(one.status == "broken" for one in found)
    if as_json:
        print(json_text({"works": not broken, "findings": [asdict(one) for one in found]}))
    else:
        _show(found, broken)
    if broken:
        raise typer.Exit(1)


def _cache() -> Path | None:
    """Return the folder of the built-in models; None if the library that knows the user's folders is absent."""
    from retainfirst_lab.tasks.facts import cache_root

    try:
        return cache_root()
    except MissingDependency:
        return None


def _show(found: Sequence[Finding], broken: int) -> None:
    console = Console(soft_wrap=True, highlight=False)
    width = max(len(one.name) for one in found)
    for section, findings in itertools.groupby(found, key=lambda one: one.section):
        console.print(section, style="bold")
        for one in findings:
            console.print(f"  {one.status:<7}", style=_STYLES[one.status], end="")
            console.print(f"  {one.name:<{width}}  {one.text}", markup=False)
            if one.advice:
                console.print(f"  {'':<7}  {'':<{width}}  {one.advice}", markup=False, style="dim")
    if broken:
        console.print(f"{broken} {'thing is' if broken == 1 else 'things are'} broken.", style="bold red")
    else:
        console.print("Nothing is broken.", style="green")
