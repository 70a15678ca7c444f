"""The study of RWKU in the framework itself: an evaluation, and a training of a tiny model that is evaluated along its path."""

from __future__ import annotations

import math

import pytest

from retainfirst_lab.studies.rwku_runs import PROBES, Cell, Design, Framework, Runs
from rwku_files import write_by_subject


@pytest.mark.slow
def test_a_run_of_the_study(framework, tmp_path, monkeypatch):
    for name, value in framework.environment.items():
        monkeypatch.setenv(name, value)
    design = Design(known=0.0, steps=2, evaluate_every=1, max_new_tokens=2, max_length=4, forget_probes=2)
    there = Framework(framework.home, framework.python)
    runs = Runs(tmp_path / "out", framework.workspace / "model", there, design, write_by_subject(tmp_path / "rwku"))
    runs.ask_before()
    results = runs.run(Cell("npo", "sago_keep_retain", 1))
    assert [point["step"] for point in results["points"]] == [1, 2]
    for point in results["points"]:
        assert {probe: len(point["recalls"][probe]) for probe in PROBES} == {
            probe: len(rows) for probe, rows in runs.kept().items()
        }
    assert [log["step"] for log in results["training"]] == [1, 2]
    assert all(math.isfinite(log["cos_update_retain"]) for log in results["training"])
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert there.versions()["transformers"] == framework.transformers
