"""Trainers as others write them: each computes one loss of both tasks by itself."""

from __future__ import annotations

import copy

import torch
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

import tiny

WEIGHTS = (0.7, 1.3)  # of forget and retain, in GradDiff's loss


class Rows(Dataset):
    """Pairs of a forget and a retain row, each a dictionary of tensors without padding."""

    def __init__(self, rows=8, length=12, more=()):
        self._parts = [tiny.tiny_batch((length,) * rows, seed=seed) for seed in (1, 2, *more)]

    def __len__(self):
        return len(self._parts[0]["input_ids"])

    def __getitem__(self, i):
        return [{key: value[i] for key, value in part.items()} for part in self._parts]


def stack(rows):
    """Stack rows into a list of dictionaries of tensors, one a part."""
    return [{key: torch.stack([row[key] for row in part]) for key in part[0]} for part in zip(*rows, strict=True)]


def by_key(rows):
    """Stack rows into a dictionary with the keys forget and retain."""
    return dict(zip(("forget", "retain"), stack(rows), strict=True))


class GradDiff(Trainer):
    """Minus the likelihood loss of the first part of a tuple, and the likelihood loss of the second."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        forget, retain = inputs
        loss = -WEIGHTS[0] * model(**forget).loss + WEIGHTS[1] * model(**retain).loss
        return (loss, None) if return_outputs else loss


class Npo(Trainer):
    """NPO against a copy of the model as it was, and the likelihood loss; batches by key."""

    beta = 0.1

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reference = copy.deepcopy(self.model).eval().requires_grad_(False)

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        forget, retain = inputs["forget"], inputs["retain"]
        with torch.no_grad():
            before = per_row(self.reference(forget["input_ids"]).logits, forget["labels"])
        ratio = per_row(model(forget["input_ids"]).logits, forget["labels"]) - before
        loss = -2 / self.beta * logsigmoid(-self.beta * ratio).mean()
        loss = loss - per_row(model(input_ids=retain["input_ids"])["logits"], retain["labels"]).mean()
        return (loss, None) if return_outputs else loss


def per_row(logits, labels):
    """Return each row's log-probability of its labels."""
    logits, labels = logits[:, :-1], labels[:, 1:]
    found = logits.log_softmax(-1).gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    return torch.where(labels < 0, 0.0, found).sum(-1)


def arguments(folder, **options):
    """Return arguments that keep the rows in order and train in float32 on the CPU."""
    defaults = {
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "per_device_train_batch_size": 2, "max_steps": 3,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "remove_unused_columns": False, "seed": 3,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **{**defaults, **options})


def make(kind, where, *, collator=None, rows=None, model=None, **options):
    """Construct one of these trainers, with the same tiny model each time.

    where: a folder for its output, or its arguments.
    """
    model = tiny.tiny_llama(seed=0) if model is None else model
    collator = collator or (by_key if issubclass(kind, Npo) else stack)
    given = where if isinstance(where, TrainingArguments) else arguments(where, **options)
    return kind(model=model, args=given, train_dataset=rows or Rows(), data_collator=collator)


def trained(trainer):
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


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


class ForgetOnly(GradDiff):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        forget = inputs if isinstance(inputs, dict) else inputs[0]
        return -model(**forget).loss


def retain_batches():
    return DataLoader([row[1] for row in Rows()], batch_size=2)


def forget_rows(rows):
    return stack(rows)[0]
