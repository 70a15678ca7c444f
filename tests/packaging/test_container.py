"""The Dockerfile and the dev container name files, extras and targets that exist. Nothing is built here: that needs docker."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their words, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied() -> list[str]:
    """Return what is copied from the repository."""
    return [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a file or a folder at the top out; its last fitting line decides."""
    found = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch(path, pattern):
            found = not line.startswith("!")
    return found


def test_what_is_copied_exists_and_is_not_ignored():
    assert {"rust", "python", "pyproject.toml", "Cargo.lock"} <= set(copied())
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert ignored("outputs")
    assert ignored(".venv")


def test_the_builder_gets_what_the_build_reads():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    read = {project["project"]["readme"], *project["project"]["license-files"]}
    read |= {Path(project["tool"]["maturin"][name]).parts[0] for name in ("manifest-path", "python-source")}
    assert read <= set(copied())


def test_the_image_installs_known_extras_and_runs_as_a_user():
    found = dict(instructions())
    assert found["USER"] != "root"
    assert json.loads(found["ENTRYPOINT"]) == ["retainfirst"]
    extras = re.findall(r"\$\{wheel\}\[([\w,]+)\]", (ROOT / "Dockerfile").read_text())
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras
    assert set(extras[0].split(",")) <= set(known)


def test_the_stages_that_are_named_exist():
    stages = {rest.split()[-1] for name, rest in instructions() if name == "FROM" and " AS " in rest}
    assert set(re.findall(r"from=(\w+)", (ROOT / "Dockerfile").read_text())) == stages == {"builder"}


def test_the_dev_container_makes_a_target_that_exists():
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    make, target = settings["postCreateCommand"].split()
    assert make == "make"
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
