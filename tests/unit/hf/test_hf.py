"""The trainer: the same steps as a loop written by hand, on whatever transformers is installed."""

from __future__ import annotations

import copy
import json
from importlib import metadata

import pytest
import torch
from transformers import Trainer

import retainfirst as rf
import tiny
from retainfirst import objectives
from retainfirst.data import PairedCollator
from retainfirst.geometry import FIELDS
from retainfirst.hf import TwoTaskTrainer, TwoTaskTrainerMixin
from tiny_trainer import InOrder, arguments, make_pairs

ROWS = 5


@pytest.fixture
def pairs():
    return make_pairs(ROWS)


def train(folder, pairs, model=None, kind=InOrder, **options):
    ours = {
        key: options.pop(key)
        for key in ("objective", "combiner", "combiner_options", "retain_loss", "offload", "stream")
        if key in options
    }
    # Gradient ascent, since SimNPO and NPO saturate on a random model and would leave nothing to compare.
    ours.setdefault("objective", "ga")
    resume = options.pop("resume", None)
    trainer = kind(
        model=model or tiny.tiny_llama(),
        args=arguments(folder, **options),
        train_dataset=pairs,
        data_collator=PairedCollator(0),
        **ours,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def by_hand(pairs, windows, name="sago", learning_rate=0.1, clip=0.0):
    """Plain SGD: an optimiser step for each window of rows, each row a micro-batch, losses averaged over ``of`` of them."""
    model = tiny.tiny_llama().train()
    collator = PairedCollator(0)
    for rows, of in windows:
        gradients = []
        for task, compute in (("forget", objectives.gradient_ascent), ("retain", objectives.nll)):
            model.zero_grad()
            for i in rows:
                (compute(model, collator([pairs[i]])[task]) / of).backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
        for p, u in zip(model.parameters(), rf.combine(*gradients, name), strict=True):
            p.grad = u
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        with torch.no_grad():
            for p in model.parameters():
                p -= learning_rate * p.grad
    return model


def assert_same(left, right, exactly=False):
    for (name, p), q in zip(left.named_parameters(), right.parameters(), strict=True):
        # Losses are scaled before, not after, the backward pass, and summed over micro-batches: a few float32 roundings in
        # each of at most five SGD steps on weights of order one. A factor of k would be far outside.
        torch.testing.assert_close(
            p, q, rtol=0 if exactly else 1e-4, atol=0 if exactly else 1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_each_step_is_the_rule_on_the_two_gradients(tmp_path, pairs):
    trainer = train(tmp_path, pairs, num_train_epochs=1)
    assert_same(trainer.model, by_hand(pairs, [([i], 1) for i in range(ROWS)]))


@pytest.mark.parametrize("options", [{"stream": True}, {"offload": "cpu"}, {"stream": True, "offload": "cpu"}])
def test_ways_to_save_memory_change_no_bit(tmp_path, pairs, options):
    plain = train(tmp_path, pairs, num_train_epochs=1, optim="adamw_torch", max_grad_norm=1.0)
    other = train(tmp_path, pairs, num_train_epochs=1, optim="adamw_torch", max_grad_norm=1.0, **options)
    assert other._two_task_step._stream == ("stream" in options)
    assert (other._two_task_step._offload is not None) == ("offload" in options)
    assert_same(other.model, plain.model, exactly=True)


def test_accumulation_averages_over_the_micro_batches(tmp_path, pairs):
    # Four of the five rows, so that every version sees whole windows only.
    trainer = train(tmp_path, pairs, max_steps=2, gradient_accumulation_steps=2)
    assert_same(trainer.model, by_hand(pairs, [([0, 1], 2), ([2, 3], 2)]))


def test_logged_losses_are_means_over_the_micro_batches(tmp_path, pairs):
    trainer = train(tmp_path, pairs, max_steps=1, gradient_accumulation_steps=2)
    [entry] = [entry for entry in trainer.state.log_history if "forget_loss" in entry]
    model, collator = tiny.tiny_llama().train(), PairedCollator(0)
    batches = [collator([pairs[i]]) for i in range(2)]
    forget = sum(objectives.gradient_ascent(model, batch["forget"]).item() for batch in batches) / 2
    retain = sum(objectives.nll(model, batch["retain"]).item() for batch in batches) / 2
    assert entry["forget_loss"] == pytest.approx(forget, rel=1e-5)
    assert entry["retain_loss"] == pytest.approx(retain, rel=1e-5)
    assert entry["loss"] == pytest.approx(forget + retain, abs=1e-4)  # the trainer rounds to four digits


def test_only_steps_that_are_logged_are_measured(tmp_path, pairs):
    class Watched(InOrder):
        def training_step(self, *arguments, **options):
            loss = super().training_step(*arguments, **options)
            measured.append(self.last_geometry is not None)
            return loss

    models = []
    for logging_steps, expected in ((1, [True] * 5), (2, [False, True, False, True, True])):
        measured: list[bool] = []
        models.append(train(tmp_path, pairs, kind=Watched, max_steps=5, logging_steps=logging_steps).model)
        assert measured == expected
    assert_same(*models, exactly=True)


@pytest.mark.parametrize("accumulate", [5, 8])
def test_an_epoch_no_longer_than_the_accumulation_still_steps(tmp_path, pairs, accumulate):
    trainer = train(tmp_path, pairs, num_train_epochs=1, gradient_accumulation_steps=accumulate)
    assert trainer.state.global_step == 1
    # The mean is over the labelled tokens of the window, whatever number of microbatches this version divides by.
    assert_same(trainer.model, by_hand(pairs, [(range(ROWS), ROWS)]))


def test_several_epochs_with_a_window_across_their_border(tmp_path, pairs):
    trainer = train(tmp_path, pairs, num_train_epochs=3, gradient_accumulation_steps=2)
    steps = [entry for entry in trainer.state.log_history if "forget_loss" in entry]
    assert len(steps) == trainer.state.global_step > 5


def test_clipping_is_of_the_combined_gradient(tmp_path, pairs):
    trainer = train(tmp_path, pairs, max_steps=1, max_grad_norm=0.5)
    assert_same(trainer.model, by_hand(pairs, [([0], 1)], clip=0.5))
    [norm] = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert norm == pytest.approx(trainer.last_geometry.norm_update, rel=1e-5)


def test_sum_is_what_the_plain_trainer_does_with_the_sum_of_losses(tmp_path, pairs):
    class Plain(Trainer):
        def _get_train_sampler(self, *_):
            return None

        def compute_loss(self, model, inputs, return_outputs=False, **_):
            return 2.0 * objectives.gradient_ascent(model, inputs["forget"]) + 0.5 * objectives.nll(
                model, inputs["retain"]
            )

    model = tiny.tiny_llama()
    Plain(
        model=model,
        args=arguments(tmp_path, max_steps=4, remove_unused_columns=False),
        train_dataset=pairs,
        data_collator=PairedCollator(0),
    ).train()
    ours = train(tmp_path, pairs, max_steps=4, combiner="sum", combiner_options={"alpha": 0.5, "gamma": 2.0})
    assert_same(ours.model, model)


def test_both_losses_are_logged_with_their_signs_and_the_geometry(tmp_path, pairs):
    trainer = train(tmp_path, pairs, max_steps=3, combiner=rf.PCGrad(alpha=0.5, gamma=2.0))
    logs = [entry for entry in trainer.state.log_history if "forget_loss" in entry]
    assert len(logs) == 3
    model = tiny.tiny_llama().train()
    batch = PairedCollator(0)([pairs[0]])
    assert logs[0]["forget_loss"] == pytest.approx(objectives.gradient_ascent(model, batch["forget"]).item(), rel=1e-5)
    assert logs[0]["retain_loss"] == pytest.approx(objectives.nll(model, batch["retain"]).item(), rel=1e-5)
    assert logs[0]["forget_loss"] < 0 < logs[0]["retain_loss"]
    # The trainer rounds its own loss to four digits.
    assert logs[0]["loss"] == pytest.approx(2.0 * logs[0]["forget_loss"] + 0.5 * logs[0]["retain_loss"], abs=1e-4)
    for entry in logs:
        assert set(FIELDS) <= set(entry)
        assert entry["cos_update_retain"] >= 0
    json.dumps(trainer.state.log_history)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does_bit_for_bit(tmp_path, accumulate, monkeypatch):
    if metadata.version("transformers") < "4.49":
        # These versions read their own random states with pickle, which torch refuses from 2.6 on unless told otherwise.
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    # Six rows: where an epoch is no whole number of windows, transformers 4.46 to 4.5x miscount the epochs of any resumed run.
    pairs = make_pairs(6)
    options = {"max_steps": 6, "optim": "adamw_torch", "learning_rate": 1e-3, "gradient_accumulation_steps": accumulate,
               "save_strategy": "steps", "save_steps": 3}  # fmt: skip
    whole = train(tmp_path / "whole", pairs, kind=TwoTaskTrainer, **options)
    resumed = train(
        tmp_path / "again", pairs, kind=TwoTaskTrainer, resume=str(tmp_path / "whole" / "checkpoint-3"), **options
    )
    assert_same(whole.model, resumed.model, exactly=True)
    ours = [[e["forget_loss"] for e in t.state.log_history if "forget_loss" in e] for t in (whole, resumed)]
    assert ours[0] == ours[1]


def test_micro_batches_left_over_by_an_earlier_train_are_dropped(tmp_path, pairs):
    trainer = train(tmp_path, pairs, max_steps=1)
    before = copy.deepcopy(trainer.model)
    with trainer._two_task_step.forget():
        trainer.model(**tiny.tiny_batch()).loss.backward()
    trainer.args.max_steps = 1
    trainer.train()
    clean = train(tmp_path, pairs, model=before, max_steps=1)
    assert_same(trainer.model, clean.model, exactly=True)


def test_evaluation_on_pairs_gives_the_weighted_sum(tmp_path, pairs):
    trainer = train(tmp_path, pairs, max_steps=1, combiner_options={"gamma": 3.0})
    found = trainer.evaluate(pairs)["eval_loss"]
    model, collator = trainer.model.eval(), PairedCollator(0)
    expected = []
    for start in (0,):
        batch = collator([pairs[i] for i in range(start, ROWS)])
        expected.append(
            3.0 * objectives.gradient_ascent(model, batch["forget"]) + objectives.nll(model, batch["retain"])
        )
    assert found == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_your_own_losses_through_the_mixin(tmp_path, pairs):
    class Mine(TwoTaskTrainerMixin, Trainer):
        def compute_forget_loss(self, model, inputs):
            return -model(**inputs["forget"]).loss

        def compute_retain_loss(self, model, inputs):
            return model(**inputs["retain"]).loss

    trainer = Mine(
        combiner="pcgrad", combiner_options={"scope": "block"}, model=tiny.tiny_llama(), args=arguments(tmp_path, max_steps=2),
        train_dataset=pairs, data_collator=PairedCollator(0),
    )  # fmt: skip
    trainer.train()
    assert set(trainer.last_geometry.per_group()) == {"model", "model.layers.0", "model.layers.1", "lm_head"}


def test_bad_use(tmp_path, pairs):
    with pytest.raises(rf.UnknownCombiner, match="sago"):
        train(tmp_path, pairs, combiner="sagoo")
    with pytest.raises(rf.RetainFirstError, match="npo"):
        train(tmp_path, pairs, objective="np")
    for options, text in (
        ({"retain_loss": "kl"}, "needs the option 'reference'"),
        ({"objective": "npo", "objective_options": {"betta": 1.0}}, "Did you mean 'beta'"),
        ({"objective": "ga", "objective_options": {"beta": 1.0}}, "no option 'beta'"),
    ):
        with pytest.raises(rf.RetainFirstError, match=text):
            TwoTaskTrainer(model=tiny.tiny_llama(), args=arguments(tmp_path), train_dataset=pairs, **options)
    with pytest.raises(rf.RetainFirstError, match="gradient_accumulation_steps=1"):
        train(tmp_path, pairs, stream=True, gradient_accumulation_steps=2)
    with pytest.raises(rf.RetainFirstError, match="backward pass"):
        train(tmp_path, pairs, optim="lomo")
    with pytest.raises(rf.RetainFirstError, match="no 'retain' part"):
        train(tmp_path, [{"forget": pairs[0]["forget"]}], max_steps=1, kind=_KeepsBatch)


class _KeepsBatch(InOrder):
    def get_train_dataloader(self):
        return torch.utils.data.DataLoader([{"forget": tiny.tiny_batch()}], batch_size=None)
