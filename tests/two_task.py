"""A trainer of a tiny model on tiny pairs, for the tests of the trainer."""

from __future__ import annotations

from transformers import TrainingArguments

import tiny
from retainfirst.data import EncodedSet, PairedCollator, PairedDataset
from retainfirst.hf import TwoTaskTrainer


def make(folder, arguments=None, **options):
    """Return a trainer with plain SGD and gradient ascent; the options are its own, the arguments its TrainingArguments'."""

    def encoded(seed):
        batch = tiny.tiny_batch((8,) * 4, seed=seed)
        return EncodedSet([{key: value[i].tolist() for key, value in batch.items()} for i in range(4)], name="tiny")

    defaults = {
        "output_dir": str(folder), "learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 1, "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "max_steps": 3,
    }  # fmt: skip
    return TwoTaskTrainer(
        model=tiny.tiny_llama(),
        args=TrainingArguments(**{**defaults, **(arguments or {})}),
        train_dataset=PairedDataset(encoded(1), encoded(2)),
        data_collator=PairedCollator(0),
        objective="ga",
        **options,
    )
