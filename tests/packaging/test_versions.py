"""One version: Cargo.toml has it, and the places that cannot read it there agree."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import retainfirst
from building import ROOT

COMMAND = [sys.executable, str(ROOT / "release" / "versions.py")]


def test_all_versions_agree():
    made = subprocess.run(COMMAND, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == retainfirst.__version__


def test_a_tag_must_name_the_version():
    assert subprocess.run([*COMMAND, "--tag", f"v{retainfirst.__version__}"]).returncode == 0
    made = subprocess.run([*COMMAND, "--tag", "v99.0"], capture_output=True, text=True)
    assert made.returncode == 1
    assert "the tag has 99.0" in made.stderr


def test_the_package_takes_its_version_from_cargo():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]


def test_both_packages_name_the_same_places():
    files = "pyproject.toml", "plugin/pyproject.toml"
    root, plugin = (tomllib.loads((ROOT / name).read_text(encoding="utf-8"))["project"] for name in files)
    for name in ("Source", "Issues", "Documentation"):
        assert root["urls"][name] == plugin["urls"][name]
    assert root["license"] == plugin["license"] == "MIT"
    assert root["requires-python"] == plugin["requires-python"]
