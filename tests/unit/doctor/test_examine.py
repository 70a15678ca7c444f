"""The plugin, folders, commands, and the whole examination."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from retainfirst import cli
from retainfirst.doctor import Finding, _commands, examine
from retainfirst.doctor import _framework as framework
from retainfirst.doctor import _libraries as libraries
from retainfirst.doctor import _machine as machine


@pytest.fixture
def checkout(tmp_path):
    for name in ("src/train.py", "configs/trainer/GradDiff.yaml", "configs/trainer/NPO.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_checkout_is_seen(checkout):
    _, found = framework.framework(checkout)
    assert (found.status, found.text) == ("ok", f"{checkout}, with 2 trainer configs")
    (checkout / "configs/trainer/GradDiff.yaml").unlink()
    _, found = framework.framework(checkout)
    assert found.status == "broken"
    assert "it has no configs/trainer/GradDiff.yaml" in found.text


def test_a_checkout_is_not_looked_for_unasked():
    assert [one.name for one in framework.framework(None)] == ["plugin"]


def test_the_plugin(monkeypatch):
    versions = {}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(libraries.metadata, "version", version)
    monkeypatch.setattr(framework.metadata, "requires", lambda name: ["retainfirst[hf]", "hydra-core<2,>=1.3"])
    [found] = framework.framework(None)
    assert found.status == "missing"
    assert "pip install retainfirst-open-unlearning" in found.advice
    versions |= {"retainfirst-open-unlearning": "0.1.0", "hydra-core": "1.3.2"}
    [found] = framework.framework(None)  # the tests have plugin/src on the path
    assert (found.status, found.text) == ("ok", "0.1.0")
    versions["hydra-core"] = "1.0"
    [found] = framework.framework(None)
    assert found.status == "broken"
    assert "hydra-core 1.0" in found.text
    versions["hydra-core"] = "1.3.2"
    monkeypatch.setattr(framework, "find_spec", lambda name: None)
    [found] = framework.framework(None)
    assert (found.status, found.text) == ("broken", "0.1.0: Hydra cannot see it")


def test_folders_are_written_to(tmp_path, monkeypatch):
    places = {"cache": (tmp_path / "not" / "yet", "set it"), "output": (tmp_path / "file", "another")}
    (tmp_path / "file").touch()
    cache, output = machine.folders(places)
    assert cache.status == "ok"
    assert "GiB free" in cache.text
    assert not (tmp_path / "not").exists()
    assert (output.status, output.advice) == ("broken", "another")
    assert "cannot be written" in output.text


def test_the_memory():
    assert "GiB" in machine.memory().text


def test_the_memory_where_there_is_no_proc(monkeypatch):
    def refuse(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert machine.memory().text.endswith("free unknown")
    monkeypatch.delattr(os, "sysconf")
    assert machine.memory().text == "unknown on this system"


def test_commands_say_what_they_lack(monkeypatch):
    compiled = Finding("compute", "extension", "ok", "0.1.0")
    monkeypatch.setattr(_commands, "problem", lambda one: "")
    assert {one.status for one in _commands.commands(compiled)} == {"ok"}
    monkeypatch.setattr(
        _commands, "problem", lambda one: "it is absent" if one.name in ("matplotlib", "z3-solver") else ""
    )
    found = {one.name: one for one in _commands.commands(replace(compiled, status="missing"))}
    assert (found["unlearn"].status, found["unlearn"].text) == ("missing", "needs matplotlib")
    assert found["unlearn"].advice == "pip install --upgrade 'retainfirst[hf,plot]'"
    assert found["evaluate"].text == "ready"
    assert found["verify"].text == "needs extension, z3-solver"
    assert found["verify"].advice == "see extension; pip install --upgrade 'retainfirst[verify]'"
    assert (found["bench"].text, found["bench"].advice) == ("needs extension", "see extension")


def test_every_command_has_its_needs():
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    names |= {group.typer_instance.info.name for group in cli.app.registered_groups}
    assert set(_commands.NEEDS) == names - {"doctor"}


def test_the_libraries_that_commands_need_are_declared():
    declared = {one.name for extra in ("", *libraries.PURPOSES) for one in libraries.requirements(extra)}
    assert {name for needs, _ in _commands.NEEDS.values() for name in needs} - {"extension"} <= declared


@pytest.mark.slow
def test_the_whole_examination_of_this_environment(tmp_path):
    seen = []
    found = examine({"output": (tmp_path, "")}, progress=seen.append)
    assert not [one for one in found if one.status == "broken"]
    sections = list(dict.fromkeys(one.section for one in found))
    assert sections == [
        "libraries", "extras", "compute", "several processes", "open-unlearning", "machine", "commands"
    ]  # fmt: skip
    assert len(seen) == 4


def test_a_checkout_on_the_path_that_is_not_installed_is_said_to_be_so(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    for function in ("version", "requires"):
        monkeypatch.setattr(libraries.metadata, function, absent)
    found = {(one.section, one.name): one for one in examine()}
    ours = found["libraries", "retainfirst"]
    assert ours.status == "broken"
    assert "not installed" in ours.text
    assert not {section for section, _ in found} & {"extras", "commands"}
