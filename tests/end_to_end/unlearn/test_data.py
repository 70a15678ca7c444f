"""The rows of a run: shared ones, bad ones, and whether the model knows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import retainfirst as rf
from retainfirst.unlearning import Interrupted, unlearn
from unlearn_runs import InterruptsAt, Measures, saved_model


def test_rows_longer_than_the_models_positions_are_refused(config, tmp_path):
    transformers = pytest.importorskip("transformers")
    short = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=128, n_positions=4, n_embd=16, n_layer=1, n_head=2)
    )
    folder = saved_model(short, tmp_path / "gpt2")
    with pytest.raises(rf.RetainFirstError, match=r"line 1: \d+ tokens, but the model has 4 positions.*--max-length 4"):
        unlearn(config(model=folder))


def test_a_template_with_a_clock_sees_the_runs_start_also_when_resumed(config, tmp_path, monkeypatch):
    from datetime import datetime

    from retainfirst.unlearning import _run

    seen = []

    def load(*args, now, **kwargs):
        seen.append(now)
        return load_pairs(*args, now=now, **kwargs)

    load_pairs = _run.load_pairs
    monkeypatch.setattr(_run, "load_pairs", load)
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1}
    before = datetime.now().replace(microsecond=0)
    with pytest.raises(Interrupted):
        unlearn(config(**options), measure=lambda _: InterruptsAt(3))
    settings_file = tmp_path / "out" / ".unfinished" / "settings.json"
    content = json.loads(settings_file.read_text())
    assert before <= datetime.fromisoformat(content["started"]) <= datetime.now()
    settings_file.write_text(json.dumps(content | {"started": "2020-02-29T12:00:00"}))
    unlearn(config(resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert seen == [datetime.fromisoformat(content["started"]), datetime(2020, 2, 29, 12)]


def test_a_target_that_is_met_before_training_is_refused(config, tmp_path):
    with pytest.raises(rf.RetainFirstError, match=r"measure 0\.100, which is not above .* 0\.3.*--force"):
        unlearn(config(stop_at_forget_probability=0.3), measure=lambda _: Measures(0.1))
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_know_the_forget_rows(config, tmp_path):
    class Unknown(Measures):
        def retain(self, _):
            return 0.9

    with pytest.raises(
        rf.RetainFirstError, match=r"measure 0\.080, and the retain rows 0\.900: the model does not know .*--force"
    ):
        unlearn(config(), measure=lambda _: Unknown(0.08))
    assert not (tmp_path / "out").exists()
    forced = unlearn(config(force=True, max_steps=1), measure=lambda _: Unknown(0.08, 0.01))
    assert ["the model does not know what it is to forget" in text for text in forced["warnings"]] == [True]
    assert "the model does not know what it is to forget" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_that_knows_nothing_is_reported(config):
    report = unlearn(config(max_steps=1))
    assert any("hardly more than a guess at each token" in text for text in report["warnings"])


def test_the_same_rows_to_forget_and_to_retain(config, files, tmp_path):
    with pytest.raises(rf.RetainFirstError, match="4 of 4 rows of .*forget.jsonl are in .* too"):
        unlearn(config(retain=files["forget"]))
    forced = unlearn(config(retain=files["forget"], force=True, max_steps=1))
    assert any("4 of 4 rows" in warning for warning in forced["warnings"])
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(Path(files["retain"]).read_text() + Path(files["forget"]).read_text().splitlines()[0] + "\n")
    partly = unlearn(config(retain=str(mixed), max_steps=1, output=str(tmp_path / "b")))
    assert any("1 of 4 rows" in warning for warning in partly["warnings"])


def test_bad_data_leaves_nothing(config, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(rf.RetainFirstError, match=r"bad.jsonl"):
        unlearn(config(forget=str(tmp_path / "bad.jsonl")))
    assert not (tmp_path / "out").exists()
