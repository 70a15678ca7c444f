"""``--guard``: what a run records about the steps of its optimiser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retainfirst.unlearning import unlearn


@pytest.mark.parametrize("guard", ["off", "measure", "enforce"])
def test_a_run_says_in_how_many_steps_the_parameters_moved_against_retention(config, files, guard, curves):
    retain = Path(files["retain"])
    retain.write_text(Path(files["forget"]).read_text() + retain.read_text())  # some rows are to be forgotten and kept
    settings = config(guard=guard, combiner="sum", gamma=20.0, force=True)
    report = unlearn(settings)
    out = Path(settings.output)
    card = (out / "README.md").read_text()
    assert json.loads((out / "unlearning.json").read_text()) == report
    cosines = [step.get("cos_step_retain") for step in report["steps"]]
    count = report["steps_against_retention"]
    if guard == "off":
        assert count is None
        assert set(cosines) == {None}
        assert "moved against" not in card
    else:
        assert count == sum(cosine < 0 for cosine in cosines)
        assert (count > 0) == (guard == "measure")
        assert f"In {count} of the steps the parameters moved against the retain gradient" in card
        assert ("the guard had put back" in card) == (guard == "enforce")
