"""``retainfirst unlearn --evaluate full``: the evaluation of the saved model at the end of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import retainfirst as rf
from retainfirst.models import load_model
from retainfirst.unlearning import Interrupted, UnlearnConfig, _evaluation, unlearn
from retainfirst.weights import weights_digest
from unlearn_runs import same

pytest.importorskip("rouge_score")


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_report_is_about_the_saved_model(config, lora_rank):
    settings = config(evaluate="full", max_steps=2, max_length=256, lora_rank=lora_rank)
    report = unlearn(settings)
    out = Path(settings.output)
    data = json.loads((out / "evaluation.json").read_text())
    assert data["run"]["model sha256"] == weights_digest(load_model(settings.output))
    assert data["run"]["before sha256"] == weights_digest(load_model(settings.model))
    names = [one["name"] for one in data["conditions"]]
    assert names[:6] == [
        "before", "after", "8 bits, channels", "8 bits, groups of 64", "4 bits, channels", "4 bits, groups of 64",
    ]  # fmt: skip
    assert "prompt templates" in names
    found = {one["name"]: one["metrics"]["forget"]["probability"]["value"] for one in data["conditions"]}
    for name in ("before", "after"):
        assert found[name] == pytest.approx(report[name]["forget_probability"], rel=1e-3)
    card = (out / "README.md").read_text()
    for one in data["verdicts"]:
        assert f"- {one['question']} **{one['answer']}**. {one['text']}" in card
    assert card.index("## Evaluation") < card.index("## Use")
    assert "| forget | probability of the answer |" in card
    assert json.loads((out / "unlearning.json").read_text()) == report
    assert (out / "evaluation.html").exists()


def test_quick_writes_no_evaluation(config):
    settings = config()
    unlearn(settings)
    assert not (Path(settings.output) / "evaluation.json").exists()


def test_the_model_stays_if_the_evaluation_is_interrupted(config, monkeypatch):
    plain = config(max_steps=2)
    unlearn(plain)
    monkeypatch.setattr(_evaluation, "read_files", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    settings = config(max_steps=2, evaluate="full", output=plain.output + "_full")
    with pytest.raises(Interrupted, match="interrupted during the evaluation; the model is in"):
        unlearn(settings)
    assert same(*(load_model(one.output).state_dict() for one in (plain, settings)))


def test_an_unknown_evaluation_is_refused():
    with pytest.raises(rf.RetainFirstError, match="Unknown evaluate 'ful'. Did you mean 'full'"):
        UnlearnConfig(model="m", forget="f", retain="r", output="o", evaluate="ful")
