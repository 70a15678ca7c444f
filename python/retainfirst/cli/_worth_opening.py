"""The end of a long command: which files to open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

__all__ = ["worth_opening"]


def worth_opening(files: Mapping[Path, str]) -> None:
    """Print the files of a result that are worth opening, at most three, each with what is in it.

    Args:
        files: What is in each file, by its path, the most important one first. Those that do not exist are left out.
    """
    found = [(str(path), what) for path, what in files.items() if path.exists()][:3]
    if not found:
        return
    width = max(len(path) for path, _ in found)
    console = Console(soft_wrap=True)
    console.print("Worth opening:", style="bold")
    for path, what in found:
        console.print(f"  {path:<{width}}  {what}", markup=False, highlight=False)
