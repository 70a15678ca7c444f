"""Trainers that others wrote, with their one loss taken apart."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader
from transformers import Trainer

import oracle
import tiny
from foreign import WEIGHTS, GradDiff, Npo, Rows, by_key, make, per_row, stack
from retainfirst import RetainFirstError
from retainfirst.hf import split_trainer
from retainfirst.objectives import nll


def trained(trainer):
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


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


def apart(model, *tasks):
    """Return the gradient of each loss, by a backward pass of its own."""
    names = [name for name, _ in model.named_parameters()]
    return [dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True)) for loss in tasks]


class InOrder:
    """Takes the rows in order; before a trainer in the bases."""

    def _get_train_sampler(self, *_):
        return None


def first_batch(kind):
    return (by_key if kind is Npo else stack)([Rows()[0], Rows()[1]])


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
    # transformers before 4.46 keeps one bfloat16 copy of each weight for both tasks, whose gradients it adds in bfloat16, with an
    # error of 2^-8. AdamW makes a full step of an element whose gradient is near 0, so that a few elements differ by much.
    own = trained(make(kind, tmp_path, bf16=True))
    split = trained(split_trainer(make(kind, tmp_path, bf16=True), "sum"))
    if version("transformers") >= "4.46":
        assert same(own, split)
    moved = torch.cat([(own[name] - p).flatten() for name, p in tiny.tiny_llama(seed=0).named_parameters()])
    apart = torch.cat([(own[name] - split[name]).flatten() for name in own])
    assert apart.norm() < 0.05 * moved.norm()


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


def test_the_class_stays_itself_to_others(tmp_path):
    trainer = make(GradDiff, tmp_path)
    assert split_trainer(trainer) is trainer
    assert isinstance(trainer, GradDiff)
    assert type(trainer).__name__ == "SplitGradDiff"
    assert trainer.compute_loss(trainer.model, first_batch(GradDiff)).requires_grad  # as in an evaluation


class ThreeParts(Trainer):
    """A preferred answer, a forget row and a retain row, as DPO has them."""

    def compute_loss(self, model, inputs, **_):
        better, forget, retain = inputs
        chosen = per_row(model(better["input_ids"]).logits, better["labels"])
        rejected = per_row(model(forget["input_ids"]).logits, forget["labels"])
        return -logsigmoid(0.1 * (chosen - rejected)).mean() + model(**retain).loss


class OtherKeys(Trainer):
    """Keys of its own."""

    def compute_loss(self, model, inputs, **_):
        return model(**inputs["good"]).loss - model(**inputs["bad"]).loss


class Slices(Trainer):
    """One tensor for both tasks, the forget rows first; its loss runs the model on slices, or on every other row."""

    step = None

    def compute_loss(self, model, inputs, **_):
        ids, half = inputs["input_ids"], len(inputs["input_ids"]) // 2
        forget, retain = (ids[0::2], ids[1::2]) if self.step == 2 else (ids[:half], ids[half:])
        return model(retain, labels=retain).loss - model(forget, labels=forget).loss


def other_keys(rows):
    return {"good": stack(rows)[1], "bad": stack(rows)[0], "index": torch.arange(len(rows))}


def one_tensor(rows):
    return {"input_ids": torch.cat([part["input_ids"] for part in stack(rows)])}


def halves(batch):
    return dict(zip(("forget", "retain"), batch["input_ids"].chunk(2), strict=True))


def every_other(batch):
    return {"forget": batch["input_ids"][0::2], "retain": batch["input_ids"][1::2]}


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


@pytest.mark.parametrize("kind", [ThroughTheTrainer, CopiesTheModel])
def test_ways_to_call_the_model(tmp_path, kind):
    assert same(trained(make(kind, tmp_path)), trained(split_trainer(make(kind, tmp_path), "sum")))


def test_a_copy_of_the_model_stays_whole(tmp_path):
    trainer = split_trainer(make(CopiesTheModel, tmp_path))
    trainer.train()
    assert trainer.reference(**first_batch(GradDiff)[0]).loss.grad_fn is not None


class Product(GradDiff):
    def compute_loss(self, model, inputs, **_):
        return model(**inputs[0]).loss * model(**inputs[1]).loss


class Penalty(GradDiff):
    def compute_loss(self, model, inputs, **options):
        return super().compute_loss(model, inputs, **options) + 1e-3 * self.model.lm_head.weight.square().sum()


class HiddenStates(GradDiff):
    """Takes its forget loss from a layer inside, as RMU does."""

    def compute_loss(self, model, inputs, **_):
        found = []
        handle = self.model.model.layers[0].register_forward_hook(lambda _m, _i, out: found.append(out))
        model(**inputs[0])
        handle.remove()
        hidden = found[0][0] if isinstance(found[0], tuple) else found[0]
        return hidden.square().mean() + model(**inputs[1]).loss


class Both(GradDiff):
    def compute_loss(self, model, inputs, **_):
        ids = {key: torch.cat([part[key] for part in inputs]) for key in inputs[0]}
        return model(**ids).loss


class BothViews(Trainer):
    def compute_loss(self, model, inputs, **_):
        return model(inputs["input_ids"], labels=inputs["input_ids"]).loss


class ForgetOnly(GradDiff):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        forget = inputs if isinstance(inputs, dict) else inputs[0]
        return -model(**forget).loss


class RetainDetached(GradDiff):
    def compute_loss(self, model, inputs, **_):
        return -model(**inputs[0]).loss + model(**inputs[1]).loss.detach()


class Derivative(GradDiff):
    def compute_loss(self, model, inputs, **options):
        loss = super().compute_loss(model, inputs, **options)
        torch.autograd.grad(loss, list(self.model.parameters()), retain_graph=True, allow_unused=True)
        return loss


class BackwardInside(GradDiff):
    def compute_loss(self, model, inputs, **options):
        super().compute_loss(model, inputs, **options).backward()
        return super().compute_loss(model, inputs, **options)


class InPlace(GradDiff):
    def compute_loss(self, model, inputs, **_):
        logits = model(**inputs[0]).logits
        logits /= 2
        return logits.logsumexp(-1).mean() + model(**inputs[1]).loss


class SecondModel(GradDiff):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.other = tiny.tiny_llama(seed=4)

    def compute_loss(self, model, inputs, **options):
        return super().compute_loss(model, inputs, **options) + self.other(**inputs[0]).loss


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Product, "a term holds the forget and the retain part at once"),
        (Penalty, "reaches lm_head.weight otherwise than through the model's outputs"),
        (HiddenStates, "does not depend on what the model returned for the forget part|never runs the model"),
        (Both, "a forward call of the model holds neither part"),
        (ForgetOnly, "never runs the model with the retain part of the batch"),
        (RetainDetached, "does not depend on what the model returned for the retain part"),
        (Derivative, "takes derivatives itself"),
        (BackwardInside, "takes derivatives itself"),
        (InPlace, "changes the model's outputs in place"),
        (SecondModel, "reaches .* otherwise than through the model's outputs"),
    ],
)
def test_losses_that_cannot_be_split(tmp_path, kind, text):
    trainer = split_trainer(make(kind, tmp_path))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(RetainFirstError, match=rf"^{kind.__name__}: its loss cannot be split.*({text})"):
        trainer.train()
    assert same(before, dict(trainer.model.named_parameters()))
    assert all(p.grad is None for p in trainer.model.parameters())
    assert not trainer.model._forward_hooks
    assert torch.autograd.grad.__module__ == "torch.autograd"


def test_a_forward_call_with_both_parts(tmp_path):
    trainer = make(BothViews, tmp_path, collator=one_tensor)
    split_trainer(trainer, parts=halves)
    with pytest.raises(RetainFirstError, match="holds both parts of the batch; it must take one at a time"):
        trainer.train()


class TwoBackwards(GradDiff):
    def compute_loss(self, model, inputs, **options):
        self.accelerator.backward(super().compute_loss(model, inputs, **options))
        return super().compute_loss(model, inputs, **options)


def test_several_backward_passes(tmp_path):
    with pytest.raises(RetainFirstError, match="TwoBackwards: its training step runs several backward passes"):
        split_trainer(make(TwoBackwards, tmp_path)).train()


def test_no_backward_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Trainer, "training_step", lambda self, model, inputs, *_: self.compute_loss(model, inputs).detach()
    )
    with pytest.raises(RetainFirstError, match="^GradDiff: its training step ran no backward pass through accelerate"):
        split_trainer(make(GradDiff, tmp_path)).train()


@pytest.mark.parametrize(
    ("plugin", "settings", "text"),
    [
        (
            "fsdp_plugin",
            {"fsdp_version": 1, "use_orig_params": True},
            "GradDiff: FSDP 1 cannot send a loss back in two parts",
        ),
        ("deepspeed_plugin", {"deepspeed_config": {"zero_optimization": {"stage": 0}}}, "without ZeRO .stage 0."),
    ],
)
def test_set_ups_that_are_refused(tmp_path, plugin, settings, text):
    trainer = make(GradDiff, tmp_path)
    trainer.accelerator.state = SimpleNamespace(**{plugin: SimpleNamespace(**settings)})
    trainer.is_deepspeed_enabled = plugin == "deepspeed_plugin"
    with pytest.raises(RetainFirstError, match=text):
        split_trainer(trainer)
    assert type(trainer) is GradDiff


@pytest.mark.slow
def test_a_compiled_model(tmp_path):
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    own = trained(make(GradDiff, tmp_path, **options))
    assert same(own, trained(split_trainer(make(GradDiff, tmp_path, **options), "sum")))


class OwnStep(GradDiff):
    def training_step(self, model, inputs, *arguments):
        return super().training_step(model, inputs, *arguments)


@pytest.mark.parametrize(
    ("make_one", "text"),
    [
        (lambda folder: GradDiff, "a constructed transformers.Trainer, not the class GradDiff"),
        (lambda folder: nn.Linear(2, 2), "a constructed transformers.Trainer, not a Linear"),
        (lambda folder: make(OwnStep, folder), "OwnStep has a training_step of its own .OwnStep.training_step."),
        (lambda folder: make(Trainer, folder), "Trainer has transformers' own compute_loss"),
        (lambda folder: split_trainer(make(GradDiff, folder)), "SplitGradDiff: its two gradients are combined already"),
    ],
)
def test_what_is_no_trainer_to_split(tmp_path, make_one, text):
    with pytest.raises(RetainFirstError, match=text):
        split_trainer(make_one(tmp_path))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"combiner": "sagoo"}, "sago"),
        ({"alhpa": 2.0}, "alhpa"),
        ({"parts": "forget,retian"}, "'retian' is no task.*retain"),
        ({"parts": ("forget", "forget")}, "names no retain part"),
        ({"parts": {"a": "forget"}}, "names no retain part"),
        ({"parts": 3}, "parts=3 is no list of names"),
        ({"parts": "a=forget,retain"}, "name all parts by key"),
        ({"offload": "disk"}, "offload"),
        ({"guard": "on"}, "guard='on' is unknown"),
        ({"parts": "forget,retain", "retain": []}, "parts is for a loss of both tasks"),
    ],
)
def test_bad_options_leave_the_trainer_as_it_was(tmp_path, options, text):
    trainer = make(GradDiff, tmp_path)
    with pytest.raises(RetainFirstError, match=text):
        split_trainer(trainer, **options)
    assert type(trainer) is GradDiff
    assert same(trained(trainer), trained(make(GradDiff, tmp_path)))


@pytest.mark.parametrize(
    ("kind", "collator", "more", "parts", "text"),
    [
        (
            ThreeParts,
            stack,
            (5,),
            None,
            "which part of the batch is for which task.*a list of 3 parts.*forget,forget,retain",
        ),
        (ThreeParts, stack, (5,), "forget,retain", "a list of 3 parts; parts names 2"),
        (OtherKeys, other_keys, (), None, r"a mapping with the keys \['bad', 'good', 'index'\]"),
        (OtherKeys, other_keys, (), {"bda": "forget", "good": "retain"}, r"names the keys \['bda', 'good'\]"),
        (OtherKeys, other_keys, (), lambda batch: batch, "the function must return"),
        (GradDiff, lambda rows: (stack(rows)[0], None), (), None, "no retain part"),
    ],
)
def test_parts_that_do_not_fit_the_batch(tmp_path, kind, collator, more, parts, text):
    trainer = split_trainer(make(kind, tmp_path, collator=collator, rows=Rows(more=more)), parts=parts)
    with pytest.raises(RetainFirstError, match=f"^{kind.__name__}: .*{text}"):
        trainer.train()


def retain_batches():
    return DataLoader([row[1] for row in Rows()], batch_size=2)


def forget_rows(rows):
    return stack(rows)[0]


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


@pytest.mark.parametrize(
    ("retain", "collator", "text"),
    [
        ([], forget_rows, "retain has no batch"),
        (iter(list(retain_batches())), forget_rows, "an iterator can be gone through once only"),
        (
            [{"input_ids": torch.ones(2, 3, dtype=torch.long)}],
            forget_rows,
            "dictionaries of the model's inputs with labels",
        ),
        (retain_batches(), stack, "have a retain part already; leave retain out"),
    ],
)
def test_bad_retain_batches(tmp_path, retain, collator, text):
    trainer = split_trainer(make(ForgetOnly, tmp_path, collator=collator, max_steps=9), retain=retain)
    with pytest.raises(RetainFirstError, match=f"^ForgetOnly: .*{text}"):
        trainer.train()


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
