"""Real gradients: those of the facts model while it unlearns (extra ``hf``)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from retainfirst.combiners import combine

__all__ = ["FORGET_WEIGHT", "facts_gradients"]

FORGET_WEIGHT = 4.0
"""Gamma of the run; ``retainfirst unlearn`` without a model uses the same."""

_BATCH, _LEARNING_RATE, _CLIP = 32, 3e-4, 1.0


def facts_gradients(steps: int, seed: int = 0) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Unlearn the built-in facts with SAGO and gradient ascent, and yield both gradients of every step.

    Args:
        steps: Optimiser steps.
        seed: Draws the batches of each step.

    Yields:
        The forget and the retain gradient by parameter name, before the step is taken.

    Raises:
        MissingDependency: transformers is not installed (extra ``hf``).
    """
    from retainfirst.data import PairedCollator, load_pairs, pad_token_id
    from retainfirst.objectives import gradient_ascent, nll
    from retainfirst_lab.tasks import facts

    model, tokenizer = facts.load()
    folder = facts.cached_folder()
    pairs = load_pairs(folder / "forget.jsonl", folder / "retain.jsonl", tokenizer)
    collate = PairedCollator(pad_token_id(tokenizer))
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=_LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = collate([pairs[i] for i in torch.randperm(len(pairs), generator=generator)[:_BATCH].tolist()])
        forget, retain = (
            dict(zip(parameters, torch.autograd.grad(loss(model, batch[task]), [*parameters.values()]), strict=True))
            for task, loss in (("forget", gradient_ascent), ("retain", nll))
        )
        yield {name: (forget[name], retain[name]) for name in parameters}
        for name, update in combine(forget, retain, "sago", gamma=FORGET_WEIGHT).items():
            parameters[name].grad = update
        torch.nn.utils.clip_grad_norm_(parameters.values(), _CLIP)
        optimizer.step()
