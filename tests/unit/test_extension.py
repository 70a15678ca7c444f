"""The library without its compiled extension, in processes in which it cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import retainfirst
from retainfirst import extension
from retainfirst.extension import AVAILABLE, require_extension, version

ROOT = Path(__file__).parents[2]
LACKING = "needs the compiled extension retainfirst._rust, which this installation lacks"


def without(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the modules of this process, except the extension."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )


def test_the_tests_have_the_extension():
    assert AVAILABLE
    require_extension("this test")


def test_what_needs_the_extension_says_so():
    """In one process, since each takes seconds to import torch."""
    made = without(
        "-c",
        """
import without_extension
import numpy as np
import torch
import retainfirst as rf
from retainfirst import cli, reference, testing
one = np.ones(2)
calls = [
    lambda: reference.combine(one, one, "sago"),
    lambda: reference.geometry(one, one, one),
    lambda: reference.dot_sign(one, one),
    lambda: testing.check_combiner("sago"),
    lambda: cli.app(["verify", "--statement", "T1"], standalone_mode=False),
    lambda: cli.app(["bench", "combine", "--quick"], standalone_mode=False),
]
for call in calls:
    try:
        call()
    except rf.MissingDependency as error:
        print(error)
print(rf.combine(-torch.ones(2), torch.tensor([1.0, -1.0]), "sago").tolist())
""",
    )
    assert made.returncode == 0, made.stderr
    *errors, update = made.stdout.splitlines()
    users = [error.split(f" {LACKING}")[0] for error in errors]
    assert users == [
        *["retainfirst.reference"] * 3,
        "retainfirst.testing.check_combiner",
        "retainfirst verify",
        "retainfirst bench",
    ]
    assert all("pip install" in error for error in errors)
    assert update == "[1.0, -1.0]"


def test_an_extension_that_cannot_be_loaded_is_named_and_left_out():
    made = without(
        "-c",
        """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "retainfirst._rust":
            raise ImportError("libc is too old")
sys.meta_path.insert(0, Broken())
import torch
import retainfirst as rf
from retainfirst import cli
print(rf.combine(-torch.ones(2), torch.tensor([1.0, -1.0]), "sago").tolist())
cli.app(["doctor"], standalone_mode=False)
""",
    )
    assert made.stdout.startswith("[1.0, -1.0]"), made.stderr
    assert "RuntimeWarning: The compiled extension retainfirst._rust cannot be loaded (libc is too old)" in made.stderr
    assert "broken" in made.stdout


def test_a_folder_on_the_path_has_the_version_of_its_extension(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert version() == retainfirst.__version__
    monkeypatch.setattr(extension, "AVAILABLE", False)
    assert version() == "0+unknown"


@pytest.mark.slow
@pytest.mark.parametrize("tests", ["combiners/test_combiners.py", "test_geometry.py", "step/test_guard.py"])
def test_the_tests_of_the_combiners_pass_without_the_extension(tests):
    made = without(
        "-m", "pytest", "-p", "without_extension", "-p", "no:cacheprovider", "-n", "0", "-m", "not slow", f"tests/unit/{tests}"
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    assert " passed" in made.stdout
