"""What the README, the pages of the site and the docstrings show, runs."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer.main

import retainfirst as rf
import tiny
from retainfirst import cli, objectives
from retainfirst.scope import SCOPES
from retainfirst_lab.report import command_page, rule_pages, theorem_book
from retainfirst_lab.report import page as pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
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
NOT_CALLED = {"cli", "doctor", "progress", "run", "bench", "reproduce", "tasks", "split"}
"""The command and its parts, the old names of modules in the laboratory, and a module whose names ``retainfirst.hf`` has."""


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the page's blocks of code in some languages, without the indentation that they have in lists."""
    found = re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, name, text in found if name in languages]


def commands(page: Path) -> list[str]:
    """Return the commands of the page, each as one line."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    return [line[2:] for line in lines if line.startswith("$ ")]


@pytest.fixture
def a_reader(tmp_path, monkeypatch):
    """Work in a folder with the models and the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    for folder in ("model", "unlearned"):
        tiny.save_tiny(tmp_path / folder)
    for part in ("forget", "retain", "held_out"):
        rows = [{"question": f"Who is {part} {n}?", "answer": f"The {n} of {part}."} for n in range(8)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_name)
def test_python_blocks_run(page, a_reader):
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


def test_pages_with_python_are_found():
    names = [page_name(page) for page in WITH_PYTHON]
    assert {"README.md", "docs/theory.md", "docs/tutorials/rule.md", "docs/reference/rules/pcgrad.md"} <= set(names)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_blocks_of_code_say_their_language(page):
    for language in re.findall(r"^ *```([^\n]*)\n.*?^ *```$", page.read_text(), re.DOTALL | re.MULTILINE):
        assert language in ("python", "console", "bash", "text", "toml", "yaml"), language


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_have_the_options_that_are_shown(page):
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[0] == "retainfirst":
            parses(words[1:])
        elif "retainfirst.run" in words:  # under a launcher
            parses(["run", *words[words.index("retainfirst.run") + 1 :]])
        elif words[:2] == ["python", "-m"] and words[2].startswith("retainfirst"):
            has_options(words[2], words[3:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


def parses(arguments: list[str]) -> None:
    """Parse arguments as ``retainfirst`` does, without running anything."""
    command, name = typer.main.get_command(cli.app), "retainfirst"
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


def has_options(module: str, arguments: list[str]) -> None:
    """Check that a module of the laboratory can be run and names the options."""
    found = importlib.util.find_spec(module)
    assert found is not None, module
    assert found.origin is not None, module
    source = Path(found.origin).read_text()
    assert "__main__" in source, module
    for word in arguments:
        if word.startswith("--"):  # an option of argparse, or a parameter that typer makes one of
            parameter = rf"\b{word[2:].replace('-', '_')}: "
            assert f'"{word}"' in source or re.search(parameter, source), f"{module}: {word}"


def test_commands_are_found():
    assert "retainfirst verify" in commands(DOCS / "theory.md")
    with pytest.raises(Exception, match="No such option"):
        parses(["verify", "--no-such-option"])
    with pytest.raises(AssertionError, match="no-such-option"):
        has_options("retainfirst_lab.studies.optimisers", ["--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE))
    for target in re.findall(r"\]\((\S+?)\)", text):
        if re.match(r"https?:", target):
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/[\w./%~+-]*)?(#[\w./-]+)?", target), target
            continue
        file, _, anchor = target.partition("#")
        assert (page.parent / file).exists(), target
        if (
            anchor and file.endswith(".md") and "api/" not in file
        ):  # the anchors of the API are made when the site is built
            assert anchor in anchors(page.parent / file), target
        elif anchor and not file:
            assert anchor in anchors(page), target


def anchors(page: Path) -> set[str]:
    """Return the anchors of the page's headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {rule_pages.anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    assert sorted(re.findall(r"[\w/-]+\.md", navigation)) == [
        page.relative_to(DOCS).as_posix() for page in sorted(PAGES[1:])
    ]


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


def test_the_reference_covers_every_name_that_a_user_can_give():
    rules = (DOCS / "reference" / "rules" / "index.md").read_text()
    for name in rf.available_combiners():
        assert f"| [`{name}`]({name}.md) |" in rules, name
    for page, names in (
        ("scopes.md", SCOPES),
        ("objectives.md", (*objectives.FORGET_OBJECTIVES, *objectives.RETAIN_OBJECTIVES)),
    ):
        text = (DOCS / "reference" / page).read_text()
        for name in names:
            assert f"| `{name}` |" in text, name


def test_the_reference_has_every_public_module():
    text = "\n".join(page.read_text() for page in (DOCS / "reference" / "api").glob("*.md"))
    public = {module.name for module in pkgutil.iter_modules(rf.__path__) if not module.name.startswith("_")}
    for name in public - NOT_CALLED:
        assert f"::: retainfirst.{name}\n" in text, name


def test_everything_public_has_a_docstring():
    for name in rf.__all__:
        assert getattr(rf, name).__doc__, name


def test_the_theory_page_has_the_statements_as_they_are():
    text = (ROOT / "docs" / "theory.md").read_text()
    found = pages.insert(text, "statements", theorem_book.as_markdown())
    assert found == text, "run: python -m retainfirst_lab.report.theorem_book docs/theory.md"
    with pytest.raises(rf.RetainFirstError, match="no place"):
        pages.insert("nothing", "statements", "")


def test_the_page_of_the_command_has_the_options_as_they_are():
    text = (DOCS / "reference" / "command.md").read_text()
    found = pages.insert(text, "command", command_page.as_markdown())
    assert found == text, "run: python -m retainfirst_lab.report.command_page docs/reference/command.md"


@pytest.mark.parametrize("rule", rule_pages.RULES)
def test_the_page_of_a_rule_has_its_options_and_promises_as_they_are(rule):
    text = (DOCS / "reference" / "rules" / f"{rule}.md").read_text()
    found = pages.insert(text, "facts", rule_pages.facts(rule))
    found = pages.insert(found, "promises", rule_pages.promises(rule, (DOCS / "theory.md").read_text()))
    assert found == text, "run: python -m retainfirst_lab.report.rule_pages docs"
    assert (DOCS / "figures" / "rules" / f"{rule}.svg").is_file()
