"""What the README, the guide and the docstrings show, runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer.main

import retainfirst as rf
from retainfirst import cli, objectives
from retainfirst.scope import SCOPES
from retainfirst_lab.report import page as pages
from retainfirst_lab.report import theorem_book

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LIGHT = (
    "combiners",
    "engines",
    "errors",
    "geometry",
    "kernels",
    "moments",
    "objectives",
    "reference",
    "scope",
    "step",
    "testing",
    "theory",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_are_shown(page):
    command = typer.main.get_command(cli.app)
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"^\$ retainfirst (.+)$", text, re.MULTILINE):
        name, *arguments = shlex.split(line)
        sub = command.commands[name]
        while hasattr(sub, "commands"):
            name, *arguments = arguments
            sub = sub.commands[name]
        sub.make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(rf.__path__, "retainfirst.")]
    return [name for name in names if name.split(".")[1] in LIGHT]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name):
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    globs = {**vars(module), **vars(rf), "torch": torch}
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in doctest.DocTestFinder().find(module, globs=globs):
        runner.run(test)
    assert runner.failures == 0


def test_the_guide_covers_every_name_that_a_user_can_give():
    guide = (ROOT / "docs" / "guide.md").read_text()
    names = [*rf.available_combiners(), *SCOPES, *objectives.FORGET_OBJECTIVES, *objectives.RETAIN_OBJECTIVES]
    for name in names:
        assert f"| `{name}` |" in guide, name


def test_everything_public_has_a_docstring():
    for name in rf.__all__:
        assert getattr(rf, name).__doc__, name


def test_the_theory_page_has_the_statements_as_they_are():
    text = (ROOT / "docs" / "theory.md").read_text()
    found = pages.insert(text, "statements", theorem_book.as_markdown())
    assert found == text, "run: python -m retainfirst_lab.report.theorem_book docs/theory.md"
    with pytest.raises(rf.RetainFirstError, match="no place"):
        pages.insert("nothing", "statements", "")
