"""Our metrics and the framework's own, on the same rows and model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
METRICS = (
    "probability", "exact_memorization", "extraction_strength", "rouge_l_recall", "mia_loss", "mia_min_k",
    "forget_truth_ratio", "retain_truth_ratio",
)  # fmt: skip


@pytest.fixture(scope="module")
def values(framework):
    answer = framework.workspace / "metrics.json"
    done = framework.call(
        str(HERE / "metrics_inside.py"), str(framework.home), str(framework.workspace / "model"), str(answer)
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(answer.read_text())


@pytest.mark.parametrize("metric", METRICS)
def test_values_are_those_of_the_framework(values, metric):
    theirs = values["theirs"][metric]
    assert len(theirs) == 1 or len(set(theirs)) > 1, "the rows tell nothing"
    # Both are float32; batches and padding differ.
    assert values["ours"][metric] == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_the_model_says_the_same(values):
    assert values["ours"]["said"] == values["theirs"]["said"]
    assert len(set(values["ours"]["said"])) > 1
