"""StopAtForget in a trainer: when it stops, which checkpoint it keeps, what it records and refuses."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import accelerate
import pytest
import torch
from accelerate import DistributedType
from safetensors.torch import load_file

import tiny
from retainfirst.data import PairedCollator
from retainfirst.errors import RetainFirstError
from retainfirst.evaluation import AnswerProbability
from retainfirst.hf import StopAtForget
from tiny_trainer import InOrder, arguments, make_pairs

OLD_TORCH_DEFAULT = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class Scripted:
    """Gives numbers one after the other, and remembers the model of each."""

    name = "scripted"

    def __init__(self, forget, retain=()):
        self.numbers = {"forget": iter(forget), "retain": iter(retain)}
        self.models = []

    def forget(self, model):
        self.models.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return next(self.numbers["forget"])

    def retain(self, model):
        return next(self.numbers["retain"])


def train(folder, callback, resume=None, **options):
    trainer = InOrder(
        model=tiny.tiny_llama(), args=arguments(folder, **{"max_steps": 8, "learning_rate": 0.01, **options}),
        train_dataset=make_pairs(8), data_collator=PairedCollator(0), objective="ga", callbacks=[callback],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def record(folder):
    return json.loads((folder / "stop_at_forget.json").read_text())


def test_it_stops_at_the_first_step_at_the_target(tmp_path):
    trainer = train(tmp_path, StopAtForget(Scripted([0.5, 0.2, 0.1]), 0.2, 2))
    assert trainer.state.global_step == 4
    found = [entry for entry in trainer.state.log_history if "forget_measure" in entry]
    assert found == [{"step": 2, "forget_measure": 0.5}, {"step": 4, "forget_measure": 0.2}]
    assert not checkpoints(tmp_path)
    assert not (tmp_path / "stop_at_forget.json").exists()


FORGET, RETAIN = [0.5, 0.1, 0.15, 0.3, 0.0], [0.95, 0.7, 0.8, 0.9, 0.6]


@pytest.mark.parametrize(("patience", "steps", "kept"), [(0, 2, 2), (1, 3, 3), (3, 5, 3)])
def test_the_best_retain_at_the_target_is_kept(tmp_path, patience, steps, kept):
    """Step 4 has a better retain, but is above the target; so has step 1."""
    measure = Scripted(FORGET, RETAIN)
    trainer = train(tmp_path, StopAtForget(measure, 0.2, 1, patience=patience, keep_best=True))
    assert trainer.state.global_step == steps
    assert checkpoints(tmp_path) == [f"checkpoint-{kept}"]
    best = measure.models[kept - 1]
    for weights in (
        dict(trainer.model.named_parameters()),
        load_file(tmp_path / f"checkpoint-{kept}/model.safetensors"),
    ):
        assert all(torch.equal(one, weights[name]) for name, one in best.items())
    found = record(tmp_path)
    entry = {"step": kept, "forget_measure": FORGET[kept - 1], "retain_measure": RETAIN[kept - 1]}
    assert found["kept"] == entry
    assert found["reached"] is True
    assert found["checkpoint"] == trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{kept}")
    assert [one["forget_measure"] for one in found["measured"]] == FORGET[:steps]
    assert (found["measure"], found["forget_at_most"], found["every"], found["patience"]) == (
        "scripted",
        0.2,
        1,
        patience,
    )


def test_a_target_that_is_never_reached_is_said(tmp_path, caplog):
    before = tiny.tiny_llama()
    trainer = train(
        tmp_path, StopAtForget(Scripted([0.5, 0.3, math.nan, 0.4], [0.9, 0.8, 0.7, 0.6]), 0.2, 2, keep_best=True)
    )
    assert (
        "target of 0.2 was not reached: the nearest was step 4 with a forget measure of 0.3 and a retain" in caplog.text
    )
    assert trainer.state.global_step == 8
    assert not checkpoints(tmp_path)
    found = record(tmp_path)
    assert (found["reached"], found["kept"], found["checkpoint"], found["nearest"]["step"]) == (False, None, None, 4)
    assert found["measured"][2]["forget_measure"] is None
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), trainer.model.parameters(), strict=True))


def test_an_engine_that_cannot_load_names_the_checkpoint(tmp_path, monkeypatch, caplog):
    """DeepSpeed and FSDP with save_only_model; accelerate's state tells, however the engine was set up."""
    measure = Scripted([0.1, 0.1, 0.1], [0.9, 0.8, 0.7])
    callback = StopAtForget(measure, 0.2, 1, patience=2, keep_best=True)
    began = callback.on_train_begin

    def with_deepspeed(args, *rest, **more):
        with monkeypatch.context() as patch:
            engine = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
            patch.setattr(accelerate.state, "AcceleratorState", lambda: engine)
            began(args, *rest, **more)

    monkeypatch.setattr(callback, "on_train_begin", with_deepspeed)
    trainer = train(tmp_path, callback, save_only_model=True)
    assert f"the best one is in {tmp_path / 'checkpoint-1'}" in caplog.text
    assert all(torch.equal(p, measure.models[2][name]) for name, p in trainer.model.named_parameters())


def test_a_retain_that_is_no_number_is_not_kept(tmp_path):
    train(tmp_path, StopAtForget(Scripted([0.1, 0.1], [math.nan, 0.2]), 0.2, 1, patience=1, keep_best=True))
    assert checkpoints(tmp_path) == ["checkpoint-2"]


def test_checkpoints_of_the_run_itself_are_left_alone(tmp_path):
    callback = StopAtForget(Scripted([0.1, 0.1, 0.1], [0.5, 0.6, 0.4]), 0.2, 1, patience=2, keep_best=True)
    train(tmp_path, callback, save_strategy="steps", save_steps=1)
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    limited = StopAtForget(Scripted([0.1, 0.1, 0.1], [0.5, 0.6, 0.4]), 0.2, 1, patience=2, keep_best=True)
    trainer = train(tmp_path / "limited", limited, save_strategy="steps", save_steps=1, save_total_limit=1)
    assert checkpoints(tmp_path / "limited") == ["checkpoint-2"]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "limited/checkpoint-2")


def test_a_failed_save_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    callback = StopAtForget(Scripted([0.1, 0.1], [0.5, 0.6]), 0.2, 1, patience=1, keep_best=True)
    save = InOrder.save_model

    def failing(self, folder=None, **options):
        if folder.endswith("checkpoint-2"):
            raise OSError("No space left on device")
        save(self, folder, **options)

    monkeypatch.setattr(InOrder, "save_model", failing)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, callback)
    assert (tmp_path / "checkpoint-1/model.safetensors").is_file()
    assert record(tmp_path)["kept"]["step"] == 1
    assert record(tmp_path)["checkpoint"] == str(tmp_path / "checkpoint-1")


def test_a_resumed_training_remembers(tmp_path, monkeypatch):
    monkeypatch.setenv(OLD_TORCH_DEFAULT, "1")
    first = StopAtForget(Scripted([0.1, 0.1], [0.9, 0.6]), 0.2, 1, patience=3, keep_best=True)
    train(tmp_path, first, max_steps=2, save_strategy="steps", save_steps=2)
    second = StopAtForget(Scripted([0.1] * 6, [0.7] * 6), 0.2, 1, patience=3, keep_best=True)
    trainer = train(tmp_path, second, str(tmp_path / "checkpoint-2"), save_strategy="steps", save_steps=2)
    assert trainer.state.global_step == 4
    assert record(tmp_path)["kept"] == {"step": 1, "forget_measure": 0.1, "retain_measure": 0.9}
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")


def test_with_the_mean_probability(tmp_path):
    """Gradient ascent lowers it; the last measurement is the first at the target."""
    measure = AnswerProbability(make_pairs(8), 0, rows=5, batch_size=2, across_processes=True)
    start = measure.forget(tiny.tiny_llama())
    trainer = train(tmp_path, StopAtForget(measure, start * 0.9, 1, keep_best=True), learning_rate=0.05)
    found = [one["forget_measure"] for one in record(tmp_path)["measured"]]
    assert found[-1] <= 0.9 * start
    assert all(one > 0.9 * start for one in found[:-1])
    assert measure.retain(trainer.model) == record(tmp_path)["kept"]["retain_measure"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"at_most": 1.5}, "at_most must be a number from 0 to 1, not 1.5"),
        ({"at_most": math.nan}, "at_most must be a number from 0 to 1, not nan"),
        ({"at_most": "0.1"}, "at_most must be a number from 0 to 1, not '0.1'"),
        ({"every": 0}, "every must be a whole number of at least 1, not 0"),
        ({"every": 2.5}, "every must be a whole number of at least 1, not 2.5"),
        ({"patience": -1, "keep_best": True}, "patience must be a whole number of at least 0, not -1"),
        ({"patience": 2}, "patience=2 looks for a better retain, which only keep_best keeps"),
        ({"keep_best": "yes"}, "keep_best must be true or false, not 'yes'"),
    ],
)
def test_bad_options_are_refused_by_name(given, text):
    with pytest.raises(RetainFirstError, match=text):
        StopAtForget(Scripted([]), **{"at_most": 0.1, "every": 1, **given})


def test_another_choice_of_the_best_is_refused(tmp_path):
    with pytest.raises(RetainFirstError, match="metric_for_best_model='loss' chooses another"):
        train(tmp_path, StopAtForget(Scripted([]), 0.1, 1, keep_best=True), metric_for_best_model="loss")
