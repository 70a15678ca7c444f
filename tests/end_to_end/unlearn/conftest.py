"""The settings and files of a run on a tiny model."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from retainfirst.unlearning import UnlearnConfig


@pytest.fixture(autouse=True)
def _old_checkpoints_can_be_read(monkeypatch):
    if metadata.version("transformers") < "4.49":
        # These versions read their own random states with pickle, which torch refuses from 2.6 on unless told otherwise.
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


@pytest.fixture
def curves() -> None:
    """Asks for the figure of a run."""


@pytest.fixture(autouse=True)
def _no_curves(request, monkeypatch):
    """Draws no figure unless a test asks for it: drawing takes longer than training a tiny model."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr("retainfirst.unlearning._run.write_curves", lambda *_: None)


@pytest.fixture
def files(tmp_path):
    rows = {
        "forget": [{"question": f"who is {i}", "answer": f"the {'abcd'[i]} one"} for i in range(4)],
        "retain": [{"prompt": f"{i} and", "completion": f" {i + 1}"} for i in range(6)],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


@pytest.fixture
def config(files, tiny_model_dir, tmp_path):
    def make(**options):
        defaults = {
            "model": str(tiny_model_dir), "output": str(tmp_path / "out"), "objective": "ga", "learning_rate": 1e-2,
            "batch_size": 2, "max_steps": 6, "device": "cpu", **files,
        }  # fmt: skip
        return UnlearnConfig(**{**defaults, **options})

    return make
