"""Steps of several microbatches on several processes, on rows of unequal length, beside one process with one large batch."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
from torch import distributed as dist
from transformers import TrainingArguments

import cases
import tiny
from pairs import InOrder
from retainfirst.data import EncodedSet, PairedCollator, PairedDataset
from retainfirst.objectives import reference_log_probs

FORGET = (4, 17, 6, 11, 30, 5, 9, 13)
RETAIN = (21, 5, 5, 8, 12, 40, 7, 6)
IN_STEP = len(FORGET)
SHORT = "a last step of half as many rows"
TOKENS = "average_tokens_across_devices"


def encoded(lengths, seed):
    batch = tiny.tiny_batch(lengths, seed=seed)
    rows = [{key: value[i, :n].tolist() for key, value in batch.items()} for i, n in enumerate(lengths)]
    return EncodedSet(rows, name="tiny")


def model():
    return tiny.tiny_llama(dtype=torch.float64)


def train(batch_size=1, steps=1.0, objective="ga", combiner="sum", **options):
    """Each step has eight rows: of one process at once, of several in microbatches.

    A last step that is not whole has half of the rows.
    """
    world, repeats = dist.get_world_size(), int(2 * steps)
    rows = [(lengths * repeats)[: int(IN_STEP * steps)] for lengths in (FORGET, RETAIN)]
    data = PairedDataset(encoded(rows[0], 1), encoded(rows[1], 2))
    if objective == "npo":
        reference = tiny.tiny_llama(seed=3, dtype=torch.float64)
        batches = [PairedCollator(0)([data[i]])["forget"] for i in range(len(data))]
        data.forget.set_reference_log_probs(reference_log_probs(reference, batches))
    size = IN_STEP if world == 1 else batch_size
    arguments = TrainingArguments(
        output_dir=str(Path.cwd() / "out"), learning_rate=0.1, optim="sgd", lr_scheduler_type="constant",
        max_grad_norm=0.0, per_device_train_batch_size=size, gradient_accumulation_steps=IN_STEP // size // world,
        num_train_epochs=1, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
        ddp_find_unused_parameters=False, **options,
    )  # fmt: skip
    trainer = InOrder(
        model=model(), args=arguments, train_dataset=data, data_collator=PairedCollator(0), objective=objective,
        combiner=combiner,
    )  # fmt: skip
    trainer.train()
    return trainer


def moved(**options):
    trainer = train(**options)
    pairs = zip(trainer.model.parameters(), model().parameters(), strict=True)
    change = torch.cat([(new.detach() - old.detach()).flatten() for new, old in pairs])
    logs = [entry for entry in trainer.state.log_history if "forget_loss" in entry]
    return {"change": change.tolist(), "losses": [[entry["forget_loss"], entry["retain_loss"]] for entry in logs]}


def known():
    return {TOKENS: True} if TOKENS in {field.name for field in fields(TrainingArguments)} else {}


CASES = {
    f"{objective}, {combiner}": partial(moved, objective=objective, combiner=combiner, **known())
    for objective in ("ga", "npo", "simnpo")
    for combiner in ("sum", "pcgrad")
} | {
    "microbatches of two rows": partial(moved, batch_size=2),
    "three steps": partial(moved, objective="simnpo", steps=3),
    SHORT: partial(moved, steps=1.5),
}

if __name__ == "__main__":
    cases.main({**CASES, "means over processes": lambda: cases.refusal(lambda: train(**{TOKENS: False}))})
