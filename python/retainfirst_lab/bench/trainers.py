"""A step of a trainer with one loss of both tasks: its own, split, and written for two gradients."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from retainfirst.errors import require

__all__ = ["OWN", "SPLIT", "TRAINERS", "make_trainer_step"]

OWN = "trainer"
SPLIT = "trainer, split by sago"
TRAINERS = (OWN, SPLIT, "trainer written for sago")
"""Gradient ascent beside the likelihood loss in one ``compute_loss``, the same split, and a trainer written for two gradients."""


def make_trainer_step(model: Any, case: str, tokens: Tensor) -> Callable[[], None]:
    """Return a function that runs a trainer's ``training_step`` on one microbatch and clears the gradients.

    Args:
        model: The model.
        case: One of :data:`TRAINERS`.
        tokens: Of the forget and the retain rows, shape ``[2, rows, length]``.
    """
    library = require("transformers", "hf")
    from retainfirst.hf import TwoTaskTrainer, split_trainer

    class AscentAndRetain(library.Trainer):  # type: ignore[misc, name-defined]
        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:  # noqa: ARG002
            return model(**inputs["retain"]).loss - model(**inputs["forget"]).loss

    with tempfile.TemporaryDirectory() as folder:
        arguments = library.TrainingArguments(
            output_dir=folder, use_cpu=model.device.type == "cpu", report_to="none", logging_strategy="no"
        )
    if case in (OWN, SPLIT):
        trainer = AscentAndRetain(model=model, args=arguments)
        if case == SPLIT:
            split_trainer(trainer, "sago")
    else:
        trainer = TwoTaskTrainer(model=model, args=arguments, objective="ga", combiner="sago")
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # what train() sets
    tasks = zip(("forget", "retain"), tokens, strict=True)
    batch = {
        task: {"input_ids": ids, "labels": ids, "attention_mask": ids >= 0, "use_cache": False} for task, ids in tasks
    }

    def run() -> None:
        trainer.training_step(model, batch)
        model.zero_grad()

    return run
