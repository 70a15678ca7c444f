"""The guard of a trainer's optimiser: what it logs, and that it is the same as in a loop by hand."""

from __future__ import annotations

import pytest
import torch

import retainfirst as rf
import tiny
from retainfirst import objectives
from retainfirst.data import PairedCollator
from tiny_trainer import InOrder, arguments, make_pairs

STEPS, RULE = 6, rf.Sum(gamma=3.0)


def make_data():
    """Every second retain row is the forget row, so that the sum moves against it."""
    pairs = make_pairs(STEPS)
    return [{"forget": pair["forget"], "retain": pair["retain" if i % 2 else "forget"]} for i, pair in enumerate(pairs)]


def train(folder, guard, logging_steps, **options):
    trainer = InOrder(
        model=tiny.tiny_llama(),
        args=arguments(folder, optim="adamw_torch", max_steps=STEPS, logging_steps=logging_steps, **options),
        train_dataset=make_data(),
        data_collator=PairedCollator(0),
        objective="ga",
        combiner=RULE,
        guard=guard,
    )
    trainer.train()
    return trainer


def by_hand(enforce):
    """Return the model and the geometry of each step."""
    model, pairs, found = tiny.tiny_llama().train(), make_data(), []
    step, optimizer = rf.TwoTaskStep(model, RULE), torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.0)
    guard = step.guard(optimizer, enforce=enforce)
    for pair in pairs:
        batch = PairedCollator(0)([pair])
        with step.forget():
            objectives.gradient_ascent(model, batch["forget"]).backward()
        with step.retain():
            objectives.nll(model, batch["retain"]).backward()
        step.combine()
        optimizer.step()
        optimizer.zero_grad()
        found.append(guard.geometry)
    return model, found


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("logging_steps", [1, 3])
def test_measured_every_step_and_logged_as_a_share(tmp_path, logging_steps):
    trainer = train(tmp_path, "measure", logging_steps)
    model, found = by_hand(enforce=False)
    for p, q in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
    last = found[logging_steps - 1 :: logging_steps]
    assert logged(trainer, "cos_step_retain") == [one.cos_step_retain for one in last]
    windows = [found[i : i + logging_steps] for i in range(0, STEPS, logging_steps)]
    assert logged(trainer, "step_opposes_retain") == [
        sum(one.opposes for one in window) / logging_steps for window in windows
    ]
    assert 0 < sum(one.opposes for one in found) < STEPS


def test_enforced_and_measured_where_it_is_logged(tmp_path):
    trainer = train(tmp_path, "enforce", 3)
    model, found = by_hand(enforce=True)
    for p, q in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert logged(trainer, "step_opposes_retain") == [0.0, 0.0]
    assert logged(trainer, "cos_step_retain") == [found[2].cos_step_retain, found[5].cos_step_retain]
    assert all(value >= 0 for value in logged(trainer, "cos_step_retain"))


def test_off_logs_nothing_and_a_second_training_sets_it_afresh(tmp_path):
    assert not logged(train(tmp_path, "off", 1), "cos_step_retain")
    trainer = train(tmp_path, "measure", 1)
    trainer.train()
    assert len(logged(trainer, "cos_step_retain")) == STEPS


def test_gradient_accumulation_and_stages_of_logging(tmp_path):
    trainer = train(tmp_path, "enforce", 1, gradient_accumulation_steps=2, logging_strategy="epoch")
    assert set(logged(trainer, "step_opposes_retain")) == {0.0}


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(rf.RetainFirstError, match="guard='enfroce' is unknown. Did you mean 'enforce'"):
        train(tmp_path, "enfroce", 1)
