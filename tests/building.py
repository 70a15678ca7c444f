"""Running the tools that build packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["ROOT", "run", "tool"]

ROOT = Path(__file__).parents[1]


def tool(name: str) -> str:
    """Return a tool of this environment or of the machine; skip the test if there is none."""
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is needed")
    return found


def run(*command: str | Path, **settings: str) -> str:
    """Run a command in the root folder and return what it prints."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", **settings}
    made = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout
