"""Every field of TrainingArguments is honoured, refused by name, or has nothing to do with a step; weights and where."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import retainfirst as rf
from retainfirst.hf._arguments import REFUSED
from retainfirst.schedule import Linear
from two_task import make

FIELDS = json.loads(Path(__file__).with_name("trainer_arguments.json").read_text())

# Read by code of the trainer that runs around training_step, or by the step itself.
HONOURED = set(FIELDS["honoured"])

# Logging, evaluation, saving, the hub; remove_unused_columns is always False for pairs.
IRRELEVANT = set(FIELDS["irrelevant"])


def test_every_field_is_accounted_for():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    unknown = fields - HONOURED - IRRELEVANT - set(REFUSED)
    assert not unknown, f"new in this version: decide for each, honoured, refused or irrelevant: {sorted(unknown)}"
    assert not (HONOURED & IRRELEVANT) | ((HONOURED | IRRELEVANT) & set(REFUSED))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 is not supported"),
        ({"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen='all' is not supported"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length"),
        ({"group_by_length": True}, "group_by_length=True is not supported"),
    ],
)
def test_a_field_without_effect_is_refused_at_construction(tmp_path, arguments, text):
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    if not arguments.keys() <= known:
        pytest.skip("not a field of this version")
    with pytest.raises(rf.RetainFirstError, match=text):
        make(tmp_path, arguments)


@pytest.mark.skipif(
    "compute_loss_func" not in inspect.signature(Trainer.__init__).parameters, reason="not in this version"
)
def test_a_loss_function_is_refused(tmp_path):
    with pytest.raises(rf.RetainFirstError, match="compute_loss_func is not supported"):
        make(tmp_path, compute_loss_func=lambda outputs, labels, num_items_in_batch=None: outputs.loss)


def test_the_cache_is_emptied_as_often_as_the_trainer_does(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cpu, "empty_cache", lambda: calls.append(1), raising=False)
    make(tmp_path, {"torch_empty_cache_steps": 2}).train()
    assert len(calls) == 2 * 2  # before both backward passes of the steps 0 and 2


class Change(TrainerCallback):
    def __init__(self, change):
        self.change = change

    def on_step_begin(self, args, state, control, **kwargs):
        self.change(state.global_step)


def run(folder, change=None, **options):
    trainer = make(folder, combiner="sum", **options)
    if change is not None:
        trainer.add_callback(Change(lambda step: change(trainer, step)))
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), trainer


def test_a_schedule_equals_weights_set_by_a_callback(tmp_path):
    def change(trainer, step):
        trainer.combiner = trainer.combiner.with_weights(gamma=0.5 + 0.25 * step)

    by_hand, _ = run(tmp_path / "a", change)
    scheduled, trainer = run(tmp_path / "b", combiner_options={"gamma": Linear(0.5, 1.5, 4)})
    assert torch.equal(by_hand, scheduled)
    assert trainer.combiner.gamma == 1.0
    constant, _ = run(tmp_path / "c", combiner_options={"gamma": 0.5})
    assert not torch.equal(by_hand, constant)


@pytest.mark.parametrize("combiner", ["sago", rf.PCGrad()])
def test_a_schedule_that_leaves_the_range_is_refused_at_construction(tmp_path, combiner):
    with pytest.raises(rf.RetainFirstError, match=r"gamma must be a finite number at least 0, not -1\.0, as Linear"):
        make(tmp_path, combiner=combiner, combiner_options={"gamma": Linear(1.0, -1.0, 10)})


def test_where_reaches_the_step(tmp_path):
    trainer = make(tmp_path, combiner="sago", where="mlp")
    trainer.train()
    assert all("mlp" in name for name in trainer.last_geometry.per_group())
