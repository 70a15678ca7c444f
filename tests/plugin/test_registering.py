"""Registering with a framework whose modules are imported later, whose registry fills later, or that runs in a fresh worker."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst_open_unlearning.register import _make_trainer, _Registry

FRAMEWORK = """
TRAINER_REGISTRY = {}
def load_trainer(name):
    if not TRAINER_REGISTRY:
        TRAINER_REGISTRY["GradDiff"] = object
    return TRAINER_REGISTRY.get(name)
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs code in a new process, beside a small framework; it returns what the code prints."""
    configs = tmp_path / "configs"
    for name, text in {
        "unlearn": "defaults:\n  - trainer: finetune",
        "trainer/finetune": "handler: FinetuneTrainer",
        "trainer/GradDiff": "handler: GradDiff # its class\nmethod_args: {gamma: 0.5}",
        "trainer/GradDiff_long": "defaults: [GradDiff]\nhandler: GradDiff",
    }.items():
        (configs / name).parent.mkdir(parents=True, exist_ok=True)
        (configs / f"{name}.yaml").write_text(text + "\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "trainer.py").write_text(FRAMEWORK)
    path = os.pathsep.join([str(tmp_path / "src"), *filter(None, sys.path)])

    def run_code(code):
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run_code


COMPOSE = """
import os, sys
from hydra import compose, initialize_config_dir
def config(name):
    with initialize_config_dir(os.path.abspath("configs"), version_base=None):
        return compose("unlearn", ["trainer=" + name]).trainer
"""


def test_a_driver_that_imports_the_framework_after_hydra_has_started(run):
    code = COMPOSE + (
        "found = [config(name) for name in ('RetainFirstGradDiff', 'RetainFirstGradDiff_long')]\n"
        "assert 'trainer' not in sys.modules and 'torch' not in sys.modules\n"
        "from trainer import load_trainer; import trainer\n"
        "load_trainer('GradDiff')\n"
        "print(*[one.handler for one in found], found[0].method_args.gamma, type(trainer.TRAINER_REGISTRY).__name__)\n"
        "print(config('RetainFirstGradDiff').handler, type(trainer.TRAINER_REGISTRY).__name__)\n"
    )
    assert run(code) == [
        "RetainFirstGradDiff",
        "RetainFirstGradDiff",
        "0.5",
        "_Registry",
        "RetainFirstGradDiff",
        "_Registry",
    ]


@pytest.mark.parametrize("first", ["", "import trainer"])
def test_a_worker_that_only_gets_hydras_state(run, first):
    """As launchers do: joblib's and submitit's workers unpickle the state, and read no configs of their own."""
    save = "import pickle; from hydra.core.plugins import Plugins\nopen('state', 'wb').write(pickle.dumps(Plugins.instance()))\n"
    run(COMPOSE + "config('RetainFirstGradDiff')\n" + save)
    load = f"{first}\nimport pickle; pickle.load(open('state', 'rb'))\n"
    assert run(load + "import trainer; print(type(trainer.TRAINER_REGISTRY).__name__)") == ["_Registry"]


class Lazy(dict):
    """Makes an entry when it is looked up."""

    def get(self, name, default=None):
        if name == "Late":
            self[name] = object
        return super().get(name, default)


def test_a_registry_that_fills_at_a_look_up():
    entries = Lazy()
    registry = _Registry(entries, lambda name, own: (name, own.get("Late")))
    assert registry.get("Late") is object
    assert registry.get("RetainFirstLate") == ("RetainFirstLate", object)
    registry["Mine"] = 1
    assert entries["Mine"] == 1
    entries["Theirs"] = 2
    assert registry["Theirs"] == 2
    assert "RetainFirstLate" in registry
    assert "Nothing" not in registry
    del registry["Mine"]
    assert set(registry) == {"Late", "RetainFirstLate", "Theirs"}
    with pytest.raises(RetainFirstError, match="open-unlearning has no trainer 'Lat'. Did you mean 'Late'"):
        _Registry(entries, _make_trainer).get("RetainFirstLat")
