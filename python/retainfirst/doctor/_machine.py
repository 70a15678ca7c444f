"""Folders, disk and memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from retainfirst.doctor._finding import Finding

__all__ = ["folders", "memory"]

_GIB = 2**30


def folders(places: Mapping[str, tuple[Path, str]]) -> Iterator[Finding]:
    """Write to each folder, or to the nearest one above it that exists.

    Args:
        places: By what a folder is for: the folder, and what to do if it cannot be written.
    """
    for name, (folder, advice) in places.items():
        target = folder.expanduser().absolute()
        existing = next((one for one in (target, *target.parents) if one.exists()), target)
        try:
            with tempfile.TemporaryFile(dir=existing):
                free = shutil.disk_usage(existing).free
        except OSError as error:
            reason = error.strerror or str(error)
            yield Finding("machine", name, "broken", f"{folder} cannot be written ({reason})", advice)
        else:
            yield Finding("machine", name, "ok", f"{folder}, {free / _GIB:.1f} GiB free")


def memory() -> Finding:
    """Look at the memory of the machine."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        text = f"{kib['MemAvailable'] * 1024 / _GIB:.1f} of {kib['MemTotal'] * 1024 / _GIB:.1f} GiB free"
    except (OSError, KeyError, ValueError):
        text = _total()
    return Finding("machine", "memory", "ok", text)


def _total() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / _GIB:.1f} GiB, free unknown"
    except (AttributeError, OSError, ValueError):
        return "unknown on this system"
