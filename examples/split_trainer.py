"""Take the two gradients out of a trainer that somebody else wrote.

``TheirTrainer`` stands for it: it returns one loss of both tasks and knows nothing of retainfirst::

    python examples/split_trainer.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import typer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from retainfirst.data import PairedCollator, load_pairs, pad_token_id
from retainfirst.hf import split_trainer
from retainfirst_lab.tasks import facts


class TheirTrainer(Trainer):  # type: ignore[misc]
    """Gradient ascent on the forget half of the batch, four times as strong as descent on the retain half."""

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Mapping[str, Tensor]], return_outputs: bool = False, **_: Any
    ) -> Any:
        """Return the one loss of both tasks."""
        loss = model(**inputs["retain"]).loss - 4.0 * model(**inputs["forget"]).loss
        return (loss, None) if return_outputs else loss


def train(combiner: str | None, steps: int) -> None:
    """Train the built-in model by their trainer: as it is, or split with a combiner."""
    set_seed(0)
    folder = facts.cached_folder(progress=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = TheirTrainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                learning_rate=3e-4,
                per_device_train_batch_size=32,
                max_steps=steps,
                lr_scheduler_type="constant",
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
            ),
            train_dataset=load_pairs(folder / "forget.jsonl", folder / "retain.jsonl", tokenizer),
            data_collator=PairedCollator(pad_token_id(tokenizer)),
        )
        if combiner is not None:
            split_trainer(trainer, combiner)  # this line is the only change
        trainer.train()
    forget, retain = (facts.accuracy(model, tokenizer, rows) for rows in facts.facts_data())
    print(f"{combiner or 'as they wrote it'}: accuracy forget {forget:.2f}, retain {retain:.2f} (chance 0.25)")


def main(combiner: str = "sago", steps: int = 40) -> None:
    """Train by their trainer as it is, and once more with its two gradients combined."""
    train(None, steps)
    train(combiner, steps)


if __name__ == "__main__":
    typer.run(main)
