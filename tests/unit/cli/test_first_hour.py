"""The first hour: the command without arguments, its version, its completion, the doctor, and files worth opening."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main
from typer.testing import CliRunner

from retainfirst import __version__, cli, extension
from retainfirst.cli import _doctor
from retainfirst.cli._worth_opening import worth_opening
from retainfirst.doctor import Finding
from tiny import save_tiny


def test_without_arguments_three_things_to_do_are_shown():
    result = CliRunner().invoke(cli.app, [])
    assert result.exit_code == 0
    commands = re.findall(r"^  retainfirst (.+)$", result.output, re.MULTILINE)
    assert [line.split()[0] for line in commands] == ["unlearn", "unlearn", "doctor"]
    for line in commands:  # they can be copied
        name, *arguments = line.split()
        typer.main.get_command(cli.app).commands[name].make_context(name, arguments)


def test_an_unknown_command_is_still_bad_use():
    assert CliRunner().invoke(cli.app, ["no-such-command"]).exit_code == 2


def test_the_version_has_those_of_torch_and_of_the_extension(monkeypatch):
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"retainfirst {__version__}, torch {torch.__version__}, extension {__version__}\n"
    monkeypatch.setattr(extension, "AVAILABLE", False)
    assert CliRunner().invoke(cli.app, ["--version"]).output.endswith(", no extension\n")


def shell(*arguments, **variables):
    code = "import sys; from retainfirst.cli import main; sys.argv[0] = 'retainfirst'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ | variables
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_without_a_terminal_there_are_lines_and_no_bars(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    pytest.importorskip("rouge_score")
    save_tiny(tmp_path / "model")
    (tmp_path / "forget.jsonl").write_text('{"question": "forget", "answer": "the one"}\n')
    done = shell(
        "evaluate", "--model", str(tmp_path / "model"), "--forget", str(tmp_path / "forget.jsonl"), "--device", "cpu"
    )
    assert "loading" in done.stderr
    assert "Loading weights" not in done.stderr
    assert "%|" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"), [("retainfirst ver", {"verify"}), ("retainfirst unlearn --mod", {"--model"})]
)
def test_the_shell_completes(words, expected):
    given = {"_RETAINFIRST_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert set(shell(**given).stdout.split()) == expected


@pytest.mark.slow
def test_completion_is_installed_into_the_home_folder(tmp_path):
    shell("--install-completion", "bash", HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    [script] = tmp_path.rglob("retainfirst.sh")
    assert "complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


@pytest.fixture
def doctor(monkeypatch):
    """Call the doctor with findings of our own; the arguments of the examination."""
    seen = []

    def call(*found, options=()):
        def examine(places, checkout, progress):
            seen.append((places, checkout))
            return list(found)

        monkeypatch.setattr(_doctor, "examine", examine)
        return CliRunner().invoke(cli.app, ["doctor", *options]), seen

    return call


FINE = Finding("libraries", "torch", "ok", "2.15.0")
ABSENT = Finding(
    "extras", "plot", "missing", "not installed: matplotlib", "for curves: pip install 'retainfirst[plot]'"
)
BROKEN = Finding("compute", "extension", "broken", "built for 0.0.9", "install it again")


def test_what_is_only_missing_is_no_failure(doctor):
    result, _ = doctor(FINE, ABSENT)
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines == [
        "libraries",
        "  ok       torch  2.15.0",
        "extras",
        "  missing  plot   not installed: matplotlib",
        "                  for curves: pip install 'retainfirst[plot]'",
        "Nothing is broken.",
    ]


def test_what_is_broken_is_a_failure(doctor):
    result, _ = doctor(FINE, BROKEN)
    assert result.exit_code == 1
    assert "1 thing is broken." in result.stdout
    assert "install it again" in result.stdout


@pytest.mark.parametrize(("found", "code"), [((FINE, ABSENT), 0), ((FINE, BROKEN), 1)])
def test_the_json(doctor, found, code):
    result, _ = doctor(*found, options=["--json"])
    assert result.exit_code == code
    report = json.loads(result.stdout)
    assert report["works"] == (code == 0)
    assert report["findings"][0] == {
        "section": "libraries", "name": "torch", "status": "ok", "text": "2.15.0", "advice": ""
    }  # fmt: skip


def test_the_folders_and_the_checkout_that_are_looked_at(doctor, monkeypatch, tmp_path):
    monkeypatch.setenv("RETAINFIRST_CACHE", str(tmp_path / "cache"))
    _, [(places, checkout)] = doctor(FINE, options=["--output", "out", "--open-unlearning", "framework"])
    assert {name: folder for name, (folder, _) in places.items()} == {
        "output": Path("out"),
        "cache": tmp_path / "cache",
    }
    assert checkout == Path("framework")


def test_without_platformdirs_the_cache_is_left_out(doctor, monkeypatch):
    monkeypatch.delenv("RETAINFIRST_CACHE", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    result, [(places, _)] = doctor(FINE)
    assert result.exit_code == 0
    assert set(places) == {"output"}


def test_at_most_three_files_that_exist_are_worth_opening(tmp_path, capsys):
    for name in ("a.md", "bb.png", "c.json", "d.txt"):
        (tmp_path / name).touch()
    worth_opening({tmp_path / name: f"[what {name} has]" for name in ("a.md", "absent", "bb.png", "c.json", "d.txt")})
    assert capsys.readouterr().out.splitlines() == [
        "Worth opening:",
        f"  {tmp_path / 'a.md'}    [what a.md has]",
        f"  {tmp_path / 'bb.png'}  [what bb.png has]",
        f"  {tmp_path / 'c.json'}  [what c.json has]",
    ]
    worth_opening({tmp_path / "absent": ""})
    assert capsys.readouterr().out == ""
