"""Packages that have moved to the laboratory: their old names still work, with a warning, for one version."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["moved"]


def moved(old: str, new: str) -> tuple[list[str], Callable[[str], Any]]:
    """Warn that a package has a new name, and return what its old module needs.

    Args:
        old: The package that calls this.
        new: Its new name.

    Returns:
        ``__path__``, so that submodules are found at the new place, and ``__getattr__``, which reads the new package.

    Raises:
        ModuleNotFoundError: The new package is not installed.
    """
    spec = importlib.util.find_spec(new)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{old} is now {new}, which is not installed", name=new)
    text = f"{old} is now {new}; the old name will go in the next version"
    warnings.warn(text, FutureWarning, stacklevel=3)

    def read(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        return getattr(importlib.import_module(new), name)

    return list(spec.submodule_search_locations), read
