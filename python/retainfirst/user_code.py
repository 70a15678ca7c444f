"""Python files that a user names, such as one with a combiner."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from retainfirst.errors import RetainFirstError

__all__ = ["run_file", "split_file_and_name"]

_IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>.+)", re.DOTALL)


def split_file_and_name(text: str) -> tuple[Path, str] | None:
    """Return the file and the name in ``path/to/file.py:name``, or None for another text."""
    found = _IN_FILE.fullmatch(text)
    return (Path(found["file"]).resolve(), found["name"]) if found else None


@cache
def run_file(file: Path) -> ModuleType:
    """Run a file once and return its module.

    Args:
        file: Its absolute path.

    Raises:
        RetainFirstError: It does not exist, or fails.
    """
    if not file.is_file():
        raise RetainFirstError(f"the file {file} does not exist")
    module_name = f"retainfirst_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise RetainFirstError(f"the file {file} fails: {type(error).__name__}: {error}") from error
    return module
