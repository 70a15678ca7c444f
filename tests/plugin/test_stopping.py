"""trainer.method_args.stop_at_forget on the stand-in: which rows it measures, what it keeps, and refusals."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

import framework_stand_in as framework
import tiny
from retainfirst.data import PairedCollator
from retainfirst.errors import RetainFirstError
from retainfirst.evaluation import AnswerProbability
from retainfirst_open_unlearning.trainers import make_trainer
from tiny_trainer import make_pairs


class Pairs(torch.utils.data.Dataset):
    """The framework's data set of pairs: rows of tensors, with an index; with DPO's answers to forget and to prefer."""

    def __init__(self, preferences=False):
        pairs = make_pairs(8)
        as_row = lambda rows, i: {key: torch.tensor(x) for key, x in rows[i].items()} | {"index": i}  # noqa: E731
        self.forget = [as_row(pairs.forget, i) for i in range(8)]
        self.retain = [as_row(pairs.retain, i) for i in range(8)]
        if preferences:
            self.forget = [{"original": row, "alternate": self.retain[i]} for i, row in enumerate(self.forget)]

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {"forget": self.forget[i], "retain": self.retain[i]}


def make(folder, data=None, tokenizer=True, **options):
    torch.manual_seed(0)
    kind = make_trainer("RetainFirstGradDiff", {"GradDiff": framework.GradDiff})
    more = {"tokenizer": tiny.tiny_tokenizer()} if tokenizer else {}
    return kind(
        model=tiny.tiny_llama(), train_dataset=data or Pairs(), data_collator=PairedCollator(0), evaluators=None,
        template_args=None, args=framework.arguments(folder, max_steps=8, gradient_accumulation_steps=1), **options, **more,
    )  # fmt: skip


def test_it_stops_and_keeps_the_best(tmp_path):
    start = AnswerProbability(make_pairs(8), 0, rows=3, batch_size=3).forget(tiny.tiny_llama())
    options = OmegaConf.create({"at_most": 0.8 * start, "every": 1, "rows": 3})
    trainer = make(tmp_path, stop_at_forget=options, combiner="sum", gamma=5.0)
    trainer.train()
    record = json.loads((tmp_path / "stop_at_forget.json").read_text())
    kept = record["kept"]
    assert 1 <= trainer.state.global_step == kept["step"] < 8
    assert kept["forget_measure"] <= 0.8 * start
    assert (tmp_path / f"checkpoint-{kept['step']}").is_dir()
    measure = AnswerProbability(make_pairs(8), 0, rows=3, batch_size=3)
    assert measure.forget(trainer.model) == pytest.approx(kept["forget_measure"], rel=1e-6)
    assert measure.retain(trainer.model) == pytest.approx(kept["retain_measure"], rel=1e-6)


def test_of_dpos_answers_the_ones_to_forget_are_measured(tmp_path):
    trainer = make(tmp_path, data=Pairs(preferences=True), stop_at_forget={"at_most": 0.1})
    callback = next(one for one in trainer.callback_handler.callbacks if type(one).__name__ == "StopAtForget")
    assert callback._measure.forget(trainer.model) == pytest.approx(
        AnswerProbability(make_pairs(8), 0, rows=8, batch_size=8).forget(trainer.model), rel=1e-6
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stop_at_forget": 0.1}, r"stop_at_forget: 0.1 has no at_most; write {at_most: 0.1}"),
        ({"stop_at_forget": {"every": 3}}, "has no at_most"),
        ({"stop_at_forget": {"at_most": 2}}, "stop_at_forget.at_most must be a number from 0 to 1, not 2"),
        ({"stop_at_forget": {"at_most": 0.1, "evry": 3}}, "has no option 'evry'. Did you mean 'every'"),
        ({"stop_at_forget": {"at_most": 0.1, "every": 0}}, "stop_at_forget.every must be a whole number of at least 1"),
        ({"stop_at_forget": {"at_most": 0.1, "rows": 0}}, "stop_at_forget.rows must be a whole number of at least 1"),
        ({"stop_at_forget": {"at_most": 0.1}, "tokenizer": False}, "stop_at_forget needs the trainer's tokenizer"),
        (
            {"stop_at_forget": {"at_most": 0.1}, "data": [SimpleNamespace]},
            "measures rows of the training data's parts forget and retain, but list has none",
        ),
    ],
)
def test_bad_options_are_refused_by_name(tmp_path, options, text, monkeypatch):
    monkeypatch.setattr("retainfirst_open_unlearning.trainers._check_data", lambda data: None)
    with pytest.raises(RetainFirstError, match=text):
        make(tmp_path, **options)
