"""The whole examination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from retainfirst.doctor._commands import commands
from retainfirst.doctor._devices import devices, extension
from retainfirst.doctor._finding import Finding
from retainfirst.doctor._framework import framework
from retainfirst.doctor._libraries import extras, needed
from retainfirst.doctor._machine import folders, memory
from retainfirst.doctor._processes import engines

__all__ = ["Finding", "examine"]


def examine(
    places: Mapping[str, tuple[Path, str]] | None = None,
    checkout: Path | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> list[Finding]:
    """Look at what is installed and try it.

    The libraries of the extras are imported, and a pair of gradients is combined on each device.

    Args:
        places: Folders that must be writable, by what they are for, each with what to do if one is not.
        checkout: A checkout of open-unlearning to look at; None: none.
        progress: Called with what is being looked at.

    Returns:
        The findings by section. Nothing needs to be done unless one has the status ``"broken"``.
    """
    progress("looking at the libraries")
    found = needed()
    progress("importing the libraries of the extras")
    found += extras()
    progress("combining on each device")
    compiled = extension()
    found += [compiled, *devices()]
    progress("looking at the machine")
    found += [*engines(), *framework(checkout), *folders(places or {}), memory()]
    return found + list(commands(compiled))
