"""The machine of a benchmark: its description, free memory, and numbers of threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import retainfirst
from retainfirst import _rust
from retainfirst.errors import RetainFirstError, did_you_mean

__all__ = ["DEVICES", "check_device", "check_room", "cores", "describe", "resident", "threads"]

DEVICES = ("cpu", "cuda")
_LIBRARIES = ("torch", "numpy", "transformers", "torchjd")


def describe(device: str) -> dict[str, Any]:
    """Return machine, device, versions and date, as reports have them."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": cores(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        },
        "versions": {"retainfirst": retainfirst.__version__, "python": platform.python_version(), **_versions()},
    }


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_device(device: str) -> None:
    """Check that a device is known and available.

    Raises:
        RetainFirstError: It is not; the text says which device to give.
    """
    if device not in DEVICES:
        raise RetainFirstError(f"Unknown device {device!r}. {did_you_mean(device, DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise RetainFirstError("Device 'cuda': torch finds no CUDA device here; give --device cpu.")


def check_room(what: str, needed: int, device: str) -> None:
    """Check, before work starts, that it fits into the free memory.

    Args:
        what: The subject of the error's text, in the plural.
        needed: Bytes.
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        RetainFirstError: Less memory is free.
    """
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else _available()
    if needed > free:
        raise RetainFirstError(
            f"{what} need about {needed / 2**30:.1f} GiB on {device}, but {free / 2**30:.1f} GiB are free; give something smaller"
        )


@contextmanager
def threads(n: int | None) -> Iterator[int]:
    """Set the number of threads of torch and of the Rust kernels inside the block; None: the number that torch uses now."""
    before = torch.get_num_threads(), _rust.get_num_threads()
    n = before[0] if n is None else n
    try:
        torch.set_num_threads(n)
        _rust.set_num_threads(n)
        yield n
    finally:
        torch.set_num_threads(before[0])
        _rust.set_num_threads(before[1])


def resident(name: str) -> int:
    """Return a field of ``/proc/self/status`` (Linux) in bytes, such as ``VmHWM``, the peak of resident memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _available() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
