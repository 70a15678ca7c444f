"""Relearning: how fast forgotten facts come back, a known weakness of unlearning."""

from __future__ import annotations

from typing import Any

import torch

from retainfirst.data import collate
from retainfirst.objectives import nll
from retainfirst_lab.reproduce.design import Sizes
from retainfirst_lab.reproduce.testbed import Testbed

__all__ = ["relearn"]


def relearn(model: Any, testbed: Testbed, sizes: Sizes, known: float) -> dict[str, Any]:
    """Fine-tune on a few forget facts, and measure the accuracy on the *others*.

    Args:
        model: The unlearned model; it is changed.
        testbed: Its facts.
        sizes: Rows, steps and learning rate.
        known: Accuracy of the target model on the other forget facts.

    Returns:
        - ``accuracy``: on the other forget facts, before the first step and after every ``relearn_every`` steps.
        - ``steps``: until half of the lost accuracy is back; None if it is not within ``relearn_steps``.
        - ``regained``: the share of the lost accuracy that is back after the last step; None if nothing was lost.
    """
    accuracy = [testbed.remaining(model)]
    lost = known - accuracy[0]
    batch = collate([testbed.relearn[i] for i in range(len(testbed.relearn))], testbed.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=sizes.relearn_rate, weight_decay=0.0)
    for step in range(1, sizes.relearn_steps + 1):
        nll(model, batch).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % sizes.relearn_every == 0:
            accuracy.append(testbed.remaining(model))
    back = (look * sizes.relearn_every for look, value in enumerate(accuracy) if value >= accuracy[0] + lost / 2)
    return {
        "accuracy": accuracy,
        "steps": next(back, None) if lost > 0 else None,
        "regained": (accuracy[-1] - accuracy[0]) / lost if lost > 0 else None,
    }
