"""Trainers that others wrote, with their one loss taken apart."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.optim.optimizer import register_optimizer_step_pre_hook

import oracle
import tiny
from foreign import (
    WEIGHTS,
    ForgetOnly,
    GradDiff,
    InOrder,
    Npo,
    OtherKeys,
    Rows,
    Slices,
    ThreeParts,
    apart,
    every_other,
    first_batch,
    forget_rows,
    halves,
    make,
    one_tensor,
    other_keys,
    per_row,
    retain_batches,
    same,
    trained,
)
from retainfirst.hf import split_trainer
from retainfirst.objectives import nll


def gradients_at_steps(trainer):
    """Train, and return the gradients that the optimiser was given at each step."""
    found = []

    def note(optimizer, *_):
        names = {p: name for name, p in trainer.model.named_parameters()}
        found.append({names[p]: p.grad.clone() for group in optimizer.param_groups for p in group["params"]})

    handle = register_optimizer_step_pre_hook(note)
    try:
        trainer.train()
    finally:
        handle.remove()
    return found


def losses(kind, model, batch):
    """Return the forget and the retain loss of a trainer, computed apart."""
    if kind is GradDiff:
        forget, retain = batch
        return -WEIGHTS[0] * model(**forget).loss, WEIGHTS[1] * model(**retain).loss
    forget, retain = batch["forget"], batch["retain"]
    with torch.no_grad():
        before = per_row(model(forget["input_ids"]).logits, forget["labels"])
    ratio = per_row(model(forget["input_ids"]).logits, forget["labels"]) - before
    forget_loss = -2 / Npo.beta * logsigmoid(-Npo.beta * ratio).mean()
    return forget_loss, -per_row(model(retain["input_ids"]).logits, retain["labels"]).mean()


@pytest.mark.parametrize("kind", [GradDiff, Npo])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sum_takes_the_trainers_own_steps_bit_for_bit(tmp_path, kind, dtype):
    def model():
        return tiny.tiny_llama(seed=0, dtype=dtype)

    own = trained(make(kind, tmp_path, model=model()))
    assert same(own, trained(split_trainer(make(kind, tmp_path, model=model()), "sum")))
    assert not same(own, dict(model().named_parameters()))


@pytest.mark.parametrize("kind", [GradDiff, Npo])
def test_under_autocast(tmp_path, kind):
    # transformers before 5 keeps one bfloat16 copy of each weight for both tasks on a CPU, whose gradients it adds in bfloat16,
    # with an error of 2^-8. AdamW makes a full step of an element whose gradient is near 0, so that a few elements differ by
    # much.
    own = trained(make(kind, tmp_path, bf16=True))
    split = trained(split_trainer(make(kind, tmp_path, bf16=True), "sum"))
    if version("transformers") >= "5":
        assert same(own, split)
    moved = torch.cat([(own[name] - p).flatten() for name, p in tiny.tiny_llama(seed=0).named_parameters()])
    apart = torch.cat([(own[name] - split[name]).flatten() for name in own])
    # 0.0054 with transformers 4.45; a task that is missing, or counted twice, moves AdamW by as much as the whole way.
    assert apart.norm() < 0.02 * moved.norm()


@pytest.mark.parametrize("kind", [GradDiff, Npo])
@pytest.mark.parametrize("rule", ["sago", "sago_keep_retain"])
def test_signs_are_combined_as_by_the_formula(tmp_path, kind, rule):
    trainer = make(type("Ordered", (InOrder, kind), {}), tmp_path, max_steps=1, max_grad_norm=0.0)
    (update,) = gradients_at_steps(split_trainer(trainer, rule, gamma=0.5))
    model = tiny.tiny_llama(seed=0)
    forget, retain = apart(model, *losses(kind, model, first_batch(kind)))
    for name, found in update.items():
        assert torch.equal(found, oracle.elementwise(rule, forget[name], retain[name], 1.0, 0.5)), name


def test_projection_is_combined_as_by_the_formula(tmp_path):
    # In float64 the formula and the kernels, which add in another order, agree to about the number of elements times 1e-16.
    model = tiny.tiny_llama(seed=0, dtype=torch.float64)
    kind = type("Ordered", (InOrder, GradDiff), {})
    trainer = make(kind, tmp_path, model=copy.deepcopy(model), max_steps=1, max_grad_norm=0.0)
    (update,) = gradients_at_steps(split_trainer(trainer, "pcgrad", scope="tensor"))
    forget, retain = apart(model, *losses(GradDiff, model, first_batch(GradDiff)))
    assert any((forget[name] * retain[name]).sum() < 0 for name in forget)
    for name, found in update.items():
        expected = oracle.projection("pcgrad", forget[name].flatten(), retain[name].flatten(), 1.0, 1.0)
        torch.testing.assert_close(found.flatten(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "options",
    [{"gradient_accumulation_steps": 2}, {"gradient_accumulation_steps": 3, "max_steps": 2}, {"max_grad_norm": 0.01}],
)
def test_accumulation_and_clipping_stay_the_trainers_own(tmp_path, options):
    # Accumulated gradients are added in another order: float64 leaves the movement of 1e-2 equal to 1e-11 or so.
    def model():
        return tiny.tiny_llama(seed=0, dtype=torch.float64)

    own = trained(make(GradDiff, tmp_path, model=model(), **options))
    split = trained(split_trainer(make(GradDiff, tmp_path, model=model(), **options), "sum"))
    for name in own:
        torch.testing.assert_close(split[name], own[name], rtol=0, atol=1e-9)


def test_dropout_is_drawn_as_in_the_trainers_own_run(tmp_path):
    def make_one():
        model = tiny.tiny_llama(seed=0)
        model.config.attention_dropout = 0.3
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.3
        return make(GradDiff, tmp_path, model=model)

    own = trained(make_one())
    assert same(own, trained(split_trainer(make_one(), "sum")))
    assert not same(own, trained(make(GradDiff, tmp_path)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(tmp_path, reentrant):
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}

    def make_one():
        model = tiny.tiny_llama(seed=0)
        model.enable_input_require_grads()  # which the reentrant kind needs
        return make(GradDiff, tmp_path, model=model, **options)

    assert same(trained(make_one()), trained(split_trainer(make_one(), "sum")))


@pytest.mark.parametrize("options", [{"offload": "cpu"}, {"stream": True}, {"guard": "measure"}])
def test_options_of_the_step(tmp_path, options):
    plain = split_trainer(make(GradDiff, tmp_path), "sago")
    other = split_trainer(make(GradDiff, tmp_path), "sago", **options)
    assert same(
        trained(plain), trained(other)
    )  # SAGO's step does not oppose: the guard changes nothing in the first steps
    logs = [one for one in other.state.log_history if "loss" in one]
    assert all("cos_forget_retain" in one for one in logs)
    assert all(("cos_step_retain" in one) == ("guard" in options) for one in logs)


def test_the_guard_puts_back(tmp_path):
    trainer = split_trainer(make(GradDiff, tmp_path), "pcgrad", guard="enforce")
    assert not same(trained(trainer), trained(split_trainer(make(GradDiff, tmp_path), "pcgrad")))
    assert all(one["step_opposes_retain"] == 0 for one in trainer.state.log_history if "loss" in one)


@pytest.mark.parametrize("parts", [None, "forget,retain"])
def test_the_order_of_two_parts_is_said_unless_it_was_given(tmp_path, caplog, parts):
    split_trainer(make(GradDiff, tmp_path), parts=parts).train()
    said = [one for one in caplog.messages if "the first part of a batch is taken for forget" in one]
    assert len(said) == (parts is None)


def test_the_class_stays_itself_to_others(tmp_path):
    trainer = make(GradDiff, tmp_path)
    assert split_trainer(trainer) is trainer
    assert isinstance(trainer, GradDiff)
    assert type(trainer).__name__ == "SplitGradDiff"
    assert trainer.compute_loss(trainer.model, first_batch(GradDiff)).requires_grad  # as in an evaluation


@pytest.mark.parametrize(
    ("kind", "collator", "parts"),
    [
        (OtherKeys, other_keys, {"good": "retain", "bad": "forget"}),
        (OtherKeys, other_keys, "good=retain, bad=forget, index=ignore"),
        (OtherKeys, other_keys, lambda batch: {"forget": batch["bad"], "retain": batch["good"]}),
        (Slices, one_tensor, halves),
        (type("Alternate", (Slices,), {"step": 2}), one_tensor, every_other),
    ],
)
def test_parts_by_key_and_function(tmp_path, kind, collator, parts):
    own = trained(make(kind, tmp_path, collator=collator))
    assert same(own, trained(split_trainer(make(kind, tmp_path, collator=collator), "sum", parts)))
    assert not same(own, trained(split_trainer(make(kind, tmp_path, collator=collator), "sago", parts)))


@pytest.mark.parametrize("parts", ["forget,forget,retain", ["forget", "forget", "retain"]])
def test_three_parts_by_position(tmp_path, parts):
    # Three gradients are added in another order: float64 leaves the movement of 1e-2 equal to 1e-11 or so.
    def make_one():
        model = tiny.tiny_llama(seed=0, dtype=torch.float64)
        return make(ThreeParts, tmp_path, rows=Rows(more=(5,)), model=model)

    own, split = trained(make_one()), trained(split_trainer(make_one(), "sum", parts))
    for name in own:
        torch.testing.assert_close(split[name], own[name], rtol=0, atol=1e-9)


class ThroughTheTrainer(GradDiff):
    """Calls the trainer's own attribute, the loss of the base class and itself."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        if isinstance(inputs, dict):
            return super(GradDiff, self).compute_loss(self.model, inputs)
        return -self.compute_loss(model, inputs[0]) + self.compute_loss(model, inputs[1])


class CopiesTheModel(GradDiff):
    """Makes its reference inside the loss, from the model with our hooks on it."""

    reference = None

    def compute_loss(self, model, inputs, **options):
        assert type(model).__name__ == "LlamaForCausalLM"
        if self.reference is None:
            self.reference = copy.deepcopy(model)
        with torch.no_grad():
            before = self.reference(**inputs[0]).loss
        return super().compute_loss(model, inputs, **options) + 0 * before


class TriesAgain(GradDiff):
    """Goes on after a forward call that fails."""

    def compute_loss(self, model, inputs, **options):
        with pytest.raises(ValueError, match="input_ids"):
            model(inputs[0]["input_ids"], inputs_embeds=torch.zeros(1, 1, 32))
        return super().compute_loss(model, inputs, **options)


@pytest.mark.parametrize("kind", [ThroughTheTrainer, CopiesTheModel, TriesAgain])
def test_ways_to_call_the_model(tmp_path, kind):
    assert same(trained(make(kind, tmp_path)), trained(split_trainer(make(kind, tmp_path), "sum")))


def test_a_copy_of_the_model_stays_whole(tmp_path):
    trainer = split_trainer(make(CopiesTheModel, tmp_path))
    trainer.train()
    assert trainer.reference(**first_batch(GradDiff)[0]).loss.grad_fn is not None


@pytest.mark.slow
def test_a_compiled_model(tmp_path):
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    own = trained(make(GradDiff, tmp_path, **options))
    assert same(own, trained(split_trainer(make(GradDiff, tmp_path, **options), "sum")))


def test_a_trainer_that_only_forgets_borrows_retain_batches(tmp_path):
    kind = type("Ordered", (InOrder, ForgetOnly), {})
    trainer = make(kind, tmp_path, collator=forget_rows, max_steps=5, max_grad_norm=0.0, optim="sgd")
    updates = gradients_at_steps(split_trainer(trainer, "sago", retain=retain_batches()))
    model = tiny.tiny_llama(seed=0)
    forget_batches = [forget_rows([Rows()[i], Rows()[i + 1]]) for i in (0, 2, 4, 6, 0)]
    for update, forget, retain in zip(updates, forget_batches, [*retain_batches(), *retain_batches()], strict=False):
        f, r = apart(model, -model(**forget).loss, nll(model, retain))
        for name, parameter in model.named_parameters():
            assert torch.equal(update[name], oracle.elementwise("sago", f[name], r[name], 1.0, 1.0))
            parameter.data.add_(update[name], alpha=-1e-2)


def test_a_run_that_is_resumed_ends_alike(tmp_path, monkeypatch):
    if version("transformers") < "4.49":
        # These versions read their own random states with pickle, which torch refuses from 2.6 on unless told otherwise.
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trained(split_trainer(make(GradDiff, tmp_path / "a", **options), "gru"))
    first = split_trainer(make(GradDiff, tmp_path / "b", **{**options, "max_steps": 2}), "gru")
    first.train()
    second = split_trainer(make(GradDiff, tmp_path / "b", **options), "gru")
    second.train(resume_from_checkpoint=str(Path(tmp_path, "b", "checkpoint-2")))
    assert same(whole, {name: p.detach() for name, p in second.model.named_parameters()})


def test_the_state_of_the_random_numbers_is_not_touched_by_the_check(tmp_path):
    seen = {}
    for split in (False, True):
        trainer = make(GradDiff, tmp_path)
        (split_trainer(trainer) if split else trainer).train()
        seen[split] = torch.get_rng_state()
    assert torch.equal(seen[False], seen[True])
