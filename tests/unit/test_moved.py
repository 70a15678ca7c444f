"""The packages that have moved to the laboratory are found by their old names, with a warning."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

OLD = ("tasks", "bench", "reproduce")


@pytest.fixture(autouse=True)
def _forgotten():
    """No old name is loaded, before and after."""

    def forget():
        for name in [name for name in sys.modules if name.startswith(tuple(f"retainfirst.{old}" for old in OLD))]:
            del sys.modules[name]

    forget()
    yield
    forget()


@pytest.mark.parametrize("old", OLD)
def test_an_old_package_warns_and_names_the_new_one(old):
    with pytest.warns(FutureWarning, match=rf"retainfirst\.{old} is now retainfirst_lab\.{old}") as seen:
        importlib.import_module(f"retainfirst.{old}")
    assert len(seen) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_modules_are_the_new_files():
    from retainfirst.bench.timing import ratios
    from retainfirst.tasks.facts import FactsConfig, load

    import retainfirst_lab.reproduce
    import retainfirst_lab.tasks.facts as new
    from retainfirst.reproduce import FULL, reproduce
    from retainfirst.tasks import facts

    assert facts.__file__ == new.__file__
    assert FactsConfig is new.FactsConfig
    assert load.__doc__ == new.load.__doc__
    assert ratios.__module__ == "retainfirst.bench.timing"
    assert reproduce is retainfirst_lab.reproduce.reproduce
    assert FULL is retainfirst_lab.reproduce.FULL
    with pytest.raises(AttributeError):
        retainfirst_lab.reproduce.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from retainfirst.tasks import nothing  # noqa: F401


@pytest.mark.slow
@pytest.mark.parametrize("module", ["tasks.implant", "tasks.smollm2", "bench.page", "bench.summary", "reproduce.page"])
def test_an_old_command_works_and_warns(module):
    command = [sys.executable, "-m", f"retainfirst.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert f"FutureWarning: retainfirst.{module.split('.')[0]} is now retainfirst_lab." in done.stderr
