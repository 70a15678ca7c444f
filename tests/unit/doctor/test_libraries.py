"""What the examination says of libraries."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from retainfirst import __version__
from retainfirst.doctor import _libraries as libraries

ROOT = Path(__file__).parents[3]

DECLARED = [
    "torch>=2.4",
    "numpy>=1.26",
    "transformers<6,>=4.45; extra == 'hf'",
    "peft>=0.13; extra == 'hf'",
    "retainfirst[hf]; extra == 'eval'",
    "scipy>=1.15; extra == 'eval'",
]
INSTALLED = {
    "retainfirst": __version__, "torch": "2.15.0", "numpy": "2.0", "transformers": "5.1", "peft": "0.13", "scipy": "1.15"
}  # fmt: skip


@pytest.fixture
def installed(monkeypatch):
    """Replace what is installed, by name; every module can be imported but those with None in place of a version's text."""
    found = dict(INSTALLED)

    def version(name):
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(libraries.metadata, "version", version)
    monkeypatch.setattr(libraries.metadata, "requires", lambda name: DECLARED)
    monkeypatch.setattr(libraries, "_import_error", lambda module: "")
    return found


def by_name(findings):
    return {one.name: one for one in findings}


def test_all_is_well(installed):
    found = by_name([*libraries.needed(), *libraries.extras()])
    assert {name for name, one in found.items() if one.status == "broken"} == set()
    assert found["numpy"].text == "2.0"
    assert found["torch"].text.startswith("2.15.0, built ")
    assert found["hf"].text == "transformers 5.1, peft 0.13"
    assert found["eval"].text == "transformers 5.1, peft 0.13, scipy 1.15"


def test_an_absent_library_of_an_extra_is_missing_in_every_extra_that_contains_it(installed):
    del installed["peft"]
    found = by_name(libraries.extras())
    for extra in ("hf", "eval"):
        assert found[extra].status == "missing"
        assert found[extra].text == "not installed: peft"
        assert f"'retainfirst[{extra}]'" in found[extra].advice


@pytest.mark.parametrize(
    ("name", "version", "wanted"), [("transformers", "6.0", "<6,>=4.45"), ("scipy", "1.9", ">=1.15")]
)
def test_a_library_outside_its_range_is_broken(installed, name, version, wanted):
    installed[name] = version
    found = by_name(libraries.extras())
    assert found["eval"].status == "broken"
    assert found["eval"].text == f"{name} {version}, but {wanted} is needed"
    assert "pip install --upgrade 'retainfirst[eval]'" in found["eval"].advice


def test_an_early_release_of_a_supported_version_is_in_range(installed):
    installed["torch"] = "2.16.0.dev20261129+cpu"
    installed["transformers"] = "5.25.0rc1"
    assert not [one for one in (*libraries.needed(), *libraries.extras()) if one.status == "broken"]


def test_a_needed_library_that_is_absent_is_broken(installed):
    del installed["numpy"]
    found = by_name(libraries.needed())["numpy"]
    assert (found.status, found.text) == ("broken", "numpy is not installed")
    assert found.advice == "pip install --upgrade 'numpy>=1.26'"


def test_a_library_that_cannot_be_imported_is_broken(installed, monkeypatch):
    monkeypatch.setattr(libraries, "_import_error", lambda module: "OSError: no libc" if module == "peft" else "")
    found = by_name(libraries.extras())["hf"]
    assert found.status == "broken"
    assert found.text == "peft 0.13 cannot be imported (OSError: no libc)"


def test_what_an_import_raises_is_told_and_what_it_prints_is_not(tmp_path, monkeypatch, capsys):
    (tmp_path / "loud_and_broken.py").write_text("import sys\nprint('hello')\nsys.exit('no GPU\\nat all')\n")
    (tmp_path / "loud.py").write_text("print('hello')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert libraries._import_error("loud_and_broken") == "SystemExit: no GPU"
    assert libraries._import_error("loud") == ""
    assert libraries._import_error("absent_library") == "ModuleNotFoundError: No module named 'absent_library'"
    assert capsys.readouterr() == ("", "")
    sys.modules.pop("loud")


def test_an_extra_without_libraries_needs_nothing_more(installed, monkeypatch):
    monkeypatch.setattr(libraries.metadata, "requires", lambda name: [one for one in DECLARED if "'hf'" not in one])
    found = by_name(libraries.extras())["hf"]
    assert (found.status, found.text) == ("ok", "needs nothing more")


def test_every_extra_for_users_has_a_purpose():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(libraries.PURPOSES) == set(declared) - {"all", "test", "docs"}


def test_the_modules_of_all_declared_libraries_are_known():
    for name in ("z3-solver", "hydra-core", "lm-eval", "rouge-score", "scipy", "gguf", "platformdirs"):
        pytest.importorskip(libraries._MODULES.get(name, name.replace("-", "_")))
