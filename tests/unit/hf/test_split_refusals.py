"""Trainers, losses and options that cannot be split, each refused by name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Trainer

import tiny
from foreign import (
    ForgetOnly,
    GradDiff,
    OtherKeys,
    Rows,
    ThreeParts,
    forget_rows,
    halves,
    make,
    one_tensor,
    other_keys,
    retain_batches,
    same,
    stack,
    trained,
)
from retainfirst import RetainFirstError
from retainfirst.hf import split_trainer


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
        (HiddenStates, "reaches .* otherwise than through the model's outputs"),
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
