"""Relearning: a little fine-tuning, to see whether what was forgotten comes back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from retainfirst.data import Example, collate
from retainfirst.errors import RetainFirstError
from retainfirst.evaluation._quantize import restored
from retainfirst.models import check_not_quantized
from retainfirst.objectives import nll

__all__ = ["check_relearning", "relearned", "split_rows"]


def split_rows(count: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Draw half of the rows for fine-tuning; the others are for measuring.

    Args:
        count: The number of rows, at least 2.
        seed: Of the draw.

    Returns:
        The numbers of the rows to train on (the smaller half) and of the others, both in order.

    Raises:
        RetainFirstError: There are fewer than two rows.
    """
    if count < 2:
        raise RetainFirstError(
            f"Relearning needs at least 2 forget rows, one to train on and one to measure; found {count}."
        )
    shown = sorted(random.Random(seed).sample(range(count), count // 2))
    return shown, sorted(set(range(count)) - set(shown))


@contextmanager
def relearned(
    model: nn.Module,
    rows: Sequence[Example],
    pad_token_id: int,
    *,
    steps: int,
    learning_rate: float = 2e-5,
    batch_size: int = 4,
    seed: int = 0,
    advance: Callable[[int], Any] | None = None,
) -> Iterator[nn.Module]:
    """Fine-tune a model on some rows for the block; afterwards it has its own weights again.

    Plain training: mean negative log-likelihood, AdamW without weight decay, a constant rate, gradients clipped to norm 1,
    rows in an order that the seed draws anew for each pass. Eval mode, so that there is no dropout. Relearning attacks are
    described by Hu et al. (2024, arXiv 2406.13356) and Lucki et al. (2024, arXiv 2409.18025).

    Args:
        model: A causal language model.
        rows: Tokenised rows to train on.
        pad_token_id: The token to pad with.
        steps: Optimiser steps, at least 1.
        learning_rate: Above 0.
        batch_size: Rows in a step.
        seed: Of the order.
        advance: Called with 1 after each step.

    The gradients are cleared.

    Yields:
        The same model, fine-tuned.

    Raises:
        RetainFirstError: There is no row, the model is quantised, or ``steps``, ``learning_rate`` or ``batch_size`` is out of
            its range.
    """
    check_relearning(len(rows), steps, learning_rate, batch_size)
    check_not_quantized(type(model).__name__, model, "fine-tuning would leave its linear layers as they are")
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    device = next(model.parameters()).device
    with restored(trained):
        optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)
        optimizer.zero_grad()
        for chosen in _batches(len(rows), batch_size, steps, seed):
            batch = collate([rows[i] for i in chosen], pad_token_id)
            nll(model, {name: value.to(device) for name, value in batch.items()}).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if advance is not None:
                advance(1)
        yield model


def check_relearning(rows: int, steps: int, learning_rate: float, batch_size: int = 1) -> None:
    """Refuse sizes of :func:`relearned` that are out of their ranges.

    Raises:
        RetainFirstError: One is; the text names it.
    """
    for name, value in (("rows", rows), ("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise RetainFirstError(f"relearning: {name} must be at least 1, found {value}.")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise RetainFirstError(f"relearning: learning_rate must be above 0, found {learning_rate}.")


def _batches(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    draw = random.Random(seed)
    order: list[int] = []
    for _ in range(steps):
        if not order:
            order = draw.sample(range(count), count)
        chosen, order = order[:size], order[size:]
        yield chosen
