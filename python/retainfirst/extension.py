"""The compiled extension ``retainfirst._rust``, which the wheel for every platform leaves out."""

from __future__ import annotations

import importlib
import platform
import warnings
from importlib import metadata
from typing import TYPE_CHECKING

from retainfirst.errors import MissingDependency

__all__ = ["AVAILABLE", "require_extension", "rust", "version"]

if TYPE_CHECKING:
    from retainfirst import _rust as rust
else:
    try:
        rust = importlib.import_module("retainfirst._rust")
    except ImportError as error:
        rust = None
        if not isinstance(error, ModuleNotFoundError) or error.name != "retainfirst._rust":
            warnings.warn(
                f"The compiled extension retainfirst._rust cannot be loaded ({error}). Combiners run in torch;"
                " `retainfirst doctor` says what to do.",
                RuntimeWarning,
                stacklevel=2,
            )

AVAILABLE = rust is not None
"""Whether this installation has the extension. Without it ``rust`` is None, and combiners run in torch."""


def version() -> str:
    """Return the version of the installed distribution; of a folder that is only on the path, that of its extension."""
    try:
        return metadata.version("retainfirst")
    except metadata.PackageNotFoundError:
        return str(rust.__version__) if AVAILABLE else "0+unknown"


def require_extension(user: str) -> None:
    """Raise an error if this installation has no compiled extension.

    Args:
        user: The function or command that needs it, for the error text.

    Raises:
        MissingDependency: It has none; the text says how to build it.
    """
    if not AVAILABLE:
        raise MissingDependency(
            f"{user} needs the compiled extension retainfirst._rust, which this installation lacks: there is no wheel for"
            f" {platform.system()} on {platform.machine()}, or the one for every platform was chosen. With Rust"
            " (https://rustup.rs) and a C compiler, build it by: pip install --force-reinstall --no-deps --no-binary retainfirst"
            " retainfirst. Combiners, training and evaluation work without it"
        )
