"""The examples run, and show what they say that they show."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a script in an empty folder; return what it printed."""

    def call(name: str, *options: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *options])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert ended.value.code == 0
        return capsys.readouterr().out

    return call


def test_there_are_five_scripts_and_two_notebooks_and_the_readme_has_a_line_for_each():
    assert (len(SCRIPTS), len(NOTEBOOKS)) == (5, 2)
    text = (EXAMPLES / "README.md").read_text()
    for path in (*SCRIPTS, *NOTEBOOKS):
        assert f"[`{path.name}`]({path.name})" in text, path.name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_has_help(path, run):
    assert "--help" in run(path.name, "--help")


@pytest.mark.slow
def test_own_loop(run):
    lines = run("own_loop.py").splitlines()
    forget, retain = map(float, re.findall(r"forget (\d\.\d+), retain (\d\.\d+)", lines[-1])[0])
    assert forget <= 0.3
    assert retain >= 0.95


@pytest.mark.slow
def test_own_rule(run):
    out = run("own_rule.py", "--examples", "20")
    assert "T1 holds for the steps of RMSprop too" in out
    assert "but not for those of Adam" in out
    ends = {name: float(end) for name, end in re.findall(r"(\w+): retain_probability \d\.\d+ -> (\d\.\d+)", out)}
    assert ends["stronger"] > ends["sum"]
    assert float(re.findall(r"stronger: forget_probability \d\.\d+ -> (\d\.\d+)", out)[0]) <= 0.1


@pytest.mark.slow
def test_lora_trainer(run, tmp_path):
    out = run("lora_trainer.py", "--output", "merged")
    [(forget, retain)] = re.findall(r"after \d+ steps: forget (\d\.\d+), retain (\d\.\d+)", out)
    assert float(forget) <= 0.1
    assert float(retain) >= 0.7
    assert (tmp_path / "merged" / "config.json").is_file()


@pytest.mark.slow
def test_split_trainer(run):
    found = re.findall(r"^(.+): accuracy forget (\d\.\d+), retain (\d\.\d+)", run("split_trainer.py"), re.MULTILINE)
    assert [name for name, *_ in found] == ["as they wrote it", "sago"]
    assert float(found[1][2]) > float(found[0][2])


@pytest.mark.slow
def test_evaluate_and_attack(run, tmp_path):
    out = run("evaluate_and_attack.py", "--output", "attacked", "--rows", "8", "--relearn", "4")
    assert re.search(r"^Is it forgotten\? yes\.", out, re.MULTILINE)
    assert (tmp_path / "attacked" / "evaluation.html").is_file()
    assert json.loads((tmp_path / "attacked" / "evaluation.json").read_text())["conditions"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_says_what_one_learns_and_is_committed_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert "You will learn" in "".join(cells[0]["source"])
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    figures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert figures
