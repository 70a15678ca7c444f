"""The wheel holds both packages, with all files that are not code."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> set[str]:
    """Build the wheel, with the Rust build products of the environment where there are any; return its files."""
    maturin = shutil.which("maturin", path=Path(sys.executable).parent) or shutil.which("maturin")
    if not maturin or not shutil.which("cargo"):
        pytest.skip("maturin and cargo are needed to build a wheel")
    folder = tmp_path_factory.mktemp("wheel")
    command = [maturin, "build", "--release", "--interpreter", sys.executable, "--out", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("retainfirst-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def sources() -> set[str]:
    """Return the files of both packages, without those that building and running leave behind."""
    left_behind = {".pyc", ".so", ".pyd"}
    found = (ROOT / "python").rglob("*")
    return {
        path.relative_to(ROOT / "python").as_posix()
        for path in found
        if path.is_file() and path.suffix not in left_behind
    }


@pytest.mark.slow
def test_the_wheel_has_every_file_of_both_packages_and_no_other(names):
    packaged = {name for name in names if not name.startswith("retainfirst-")}
    compiled = {name for name in packaged if name.startswith("retainfirst/_rust.") and not name.endswith(".pyi")}
    assert len(compiled) == 1
    assert packaged - compiled == sources()


@pytest.mark.slow
def test_the_wheel_has_its_license_and_its_command(names):
    kept = {name.split("/", 1)[1] for name in names if name.startswith("retainfirst-")}
    assert {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"} <= kept


def test_the_files_that_are_not_code_are_among_those_looked_for():
    found = sources()
    assert {"retainfirst/py.typed", "retainfirst/_rust.pyi"} <= found
    assert {".yaml", ".j2"} <= {Path(name).suffix for name in found if name.startswith("retainfirst_lab/")}
