"""Trainers with the contracts of three code bases, written for these tests: batches, calls of the model, reference models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import Trainer

import foreign
import independent
import tiny
from retainfirst.hf import split_trainer


class TupleOfDictionaries(Trainer):
    """As MUSE: two dictionaries in a tuple; the reference model is loaded apart; logits are compared element by element."""

    FORMULAS = ("npo_logits", "nll")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ref_model = tiny.tiny_llama(seed=0)

    def compute_loss(self, model, x, return_outputs=False, **_):
        x_f, x_r = x
        out_f = model(x_f["input_ids"], labels=x_f["labels"].clone(), attention_mask=x_f["attention_mask"])
        out_r = model(x_r["input_ids"], labels=x_r["labels"].clone(), attention_mask=x_r["attention_mask"])
        with torch.no_grad():
            reference = self.ref_model(x_f["input_ids"], attention_mask=x_f["attention_mask"])
        loss = 0
        loss += -logsigmoid(0.1 * (reference.logits - out_f.logits)).mean() * 2 / 0.1
        loss += out_r.loss
        return (loss, out_f) if return_outputs else loss

    @staticmethod
    def collate(rows):
        return tuple(foreign.stack(rows))


class ListOfTuples(Trainer):
    """As the TOFU family: a list of (ids, labels, mask); the KL divergence from a copy of the model on the retain part."""

    FORMULAS = ("ga", "kl")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.oracle_model = copy.deepcopy(self.model).eval().requires_grad_(False)

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        (ids, labels, mask), retain = inputs
        outputs = model(ids, labels=labels, attention_mask=mask)
        return outputs.loss * -1 + self.divergence(model, *retain)

    def divergence(self, model, ids, labels, mask):
        with torch.no_grad():
            before = self.oracle_model(ids, labels=labels, attention_mask=mask).logits.log_softmax(-1)
        now = model(ids, labels=labels, attention_mask=mask).logits.log_softmax(-1)
        return torch.nn.functional.kl_div(
            now.flatten(0, 1), before.flatten(0, 1), reduction="batchmean", log_target=True
        )

    @staticmethod
    def collate(rows):
        return [(part["input_ids"], part["labels"], part["attention_mask"]) for part in foreign.stack(rows)]


class ThreeTuples(ListOfTuples):
    """As its DPO: a refusal, a forget and a retain part. The first two are in one term."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        refusal, forget, retain = inputs
        return self.preference(model, refusal, forget) + self.divergence(model, *retain)

    def preference(self, model, refusal, forget):
        def above(part):
            ids, labels, _ = part
            with torch.no_grad():
                before = foreign.per_row(self.oracle_model(ids).logits, labels)
            return foreign.per_row(model(ids).logits, labels) - before

        return -logsigmoid(0.1 * (above(refusal) - above(forget))).mean() * 2 / 0.1


class DictionaryOfTuples(Trainer):
    """As the WMDP code bases: keys with tuples of more tensors than are used, and a key without any."""

    FORMULAS = ("npo_batch", "nll")
    gamma = 0.5

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.infer_model = copy.deepcopy(self.model)
        self.infer_model.eval()

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        forget, retain = (
            dict(zip(("input_ids", "attention_mask", "labels"), inputs[task][:3], strict=True))
            for task in ("forget", "retain")
        )
        outputs = model(**forget)
        with torch.no_grad():
            reference = self.infer_model(**forget)
        forgotten = -logsigmoid(0.1 * (outputs.loss - reference.loss)).mean() * 2 / 0.1
        loss = forgotten + self.gamma * model(**retain).loss
        return (loss, outputs) if return_outputs else loss

    @staticmethod
    def collate(rows):
        forget, retain = ((p["input_ids"], p["attention_mask"], p["labels"]) for p in foreign.stack(rows))
        return {"forget": (*forget, forget[0].clone()), "retain": retain, "perturb": None}


TWO_PARTS = [TupleOfDictionaries, ListOfTuples, DictionaryOfTuples]


def make(kind, folder, **options):
    more = (3,) if kind is ThreeTuples else ()
    return foreign.make(kind, folder, collator=kind.collate, rows=foreign.Rows(more=more), **options)


def trained(trainer):
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


class Recorded(Exception):
    pass


def first_update(trainer):
    """Train up to the first step of the optimiser; return the microbatches and the gradients that it got."""
    batches, found, prepare = [], {}, trainer._prepare_inputs

    def note(inputs):
        batches.append(prepare(inputs))
        return batches[-1]

    def stop(*_):
        found.update({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
        raise Recorded

    trainer._prepare_inputs = note
    handle = register_optimizer_step_pre_hook(stop)
    try:
        with pytest.raises(Recorded):
            trainer.train()
    finally:
        handle.remove()
    return batches, found


@pytest.mark.parametrize("kind", TWO_PARTS)
def test_sum_ends_in_the_parameters_of_its_own_run(tmp_path, kind):
    own = trained(make(kind, tmp_path))
    ours = trained(split_trainer(make(kind, tmp_path), "sum"))
    start = dict(tiny.tiny_llama(seed=0).named_parameters())
    assert all(own[name].equal(ours[name]) for name in own)
    assert not all(own[name].equal(start[name]) for name in own)


@pytest.mark.parametrize("kind", TWO_PARTS)
@pytest.mark.parametrize("combiner", ["sago", "pcgrad"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_first_step_equals_the_formulas(tmp_path, kind, combiner, accumulation):
    model = tiny.tiny_llama(seed=0, dtype=torch.float64)
    trainer = make(kind, tmp_path, model=model, max_grad_norm=0.0, gradient_accumulation_steps=accumulation)
    # The reference of the first one is made in float32.
    getattr(trainer, "ref_model", model).double()
    batches, found = first_update(split_trainer(trainer, combiner))
    assert len(batches) == accumulation
    expected, *_ = independent.recompute(
        tiny.tiny_llama(seed=0, dtype=torch.float64).train(), tiny.tiny_llama(seed=0, dtype=torch.float64), batches,
        *kind.FORMULAS, combiner, weight=getattr(kind, "gamma", 1.0),
    )  # fmt: skip
    for name, update in expected.items():
        # Rounding, in sums of a few hundred terms in another order; sago without accumulation has none.
        exact = combiner == "sago" and accumulation == 1
        assert float((found[name] - update).abs().max()) <= (0 if exact else 1e-13) * float(update.abs().max()), name


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_three_parts_of_which_two_are_forgotten(tmp_path, gamma):
    model = tiny.tiny_llama(seed=0, dtype=torch.float64)
    trainer = make(ThreeTuples, tmp_path, model=model, max_grad_norm=0.0)
    split_trainer(trainer, "sum", "forget,forget,retain", gamma=gamma)
    ((refusal, forget, retain),), found = first_update(trainer)
    model.zero_grad()
    (gamma * trainer.preference(model, refusal, forget) + trainer.divergence(model, *retain)).backward()
    for name, p in model.named_parameters():
        # Rounding; the gradient of the divergence is 0 but for it, since the model equals its copy.
        assert float((found[name] - p.grad).abs().max()) <= 1e-13 * max(1.0, float(p.grad.abs().max())), name
