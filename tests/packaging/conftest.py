"""Everything that a release publishes, built once from this tree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from building import run, tool


@pytest.fixture(scope="session")
def dist(tmp_path_factory) -> Path:
    """The wheel for this platform, with the Rust build products of the environment where there are any, and the sdist."""
    tool("cargo")
    folder = tmp_path_factory.mktemp("dist")
    run(tool("maturin"), "build", "--release", "--locked", "--sdist", "--interpreter", sys.executable, "--out", folder)
    return folder


@pytest.fixture(scope="session")
def wheel(dist) -> Path:
    """The wheel for this platform."""
    [found] = dist.glob("retainfirst-*-abi3-*.whl")
    return found


@pytest.fixture(scope="session")
def universal(wheel, tmp_path_factory) -> Path:
    """The wheel for every platform."""
    return Path(run(sys.executable, "release/universal_wheel.py", wheel, tmp_path_factory.mktemp("any")).strip())


@pytest.fixture(scope="session")
def plugin(tmp_path_factory) -> Path:
    """The plugin's wheel, built from its sdist."""
    folder = tmp_path_factory.mktemp("plugin")
    run(tool("uv"), "build", "--python", sys.executable, "--out-dir", folder, "plugin")
    [found] = folder.glob("*.whl")
    return found
