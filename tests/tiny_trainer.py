"""What tests of the trainer share: pairs of random rows, arguments, and a trainer that takes the rows in order."""

from __future__ import annotations

from transformers import TrainingArguments

import tiny
from retainfirst.data import EncodedSet, PairedDataset
from retainfirst.hf import TwoTaskTrainer


def make_pairs(rows):
    def encoded(seed):
        batch = tiny.tiny_batch((8,) * rows, seed=seed)
        return EncodedSet([{key: value[i].tolist() for key, value in batch.items()} for i in range(rows)], name="tiny")

    return PairedDataset(encoded(1), encoded(2))


def arguments(folder, **options):
    defaults = {
        "learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "constant", "per_device_train_batch_size": 1,
        "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **{**defaults, **options})


class InOrder(TwoTaskTrainer):
    """Takes the rows in order, so that a loop by hand can follow."""

    def _get_train_sampler(self, *_):
        return None
