"""Real gradients and steps: those of the facts model while it unlearns (extra ``hf``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from retainfirst.combiners import Combiner, combine, make_combiner

__all__ = ["FORGET_WEIGHT", "RealStep", "facts_gradients", "facts_steps"]

FORGET_WEIGHT = 4.0
"""Gamma of the run; ``retainfirst unlearn`` without a model uses the same."""

_BATCH, _LEARNING_RATE, _CLIP = 32, 3e-4, 1.0


@dataclass(frozen=True)
class RealStep:
    """One step of a run; every mapping is by parameter name.

    Attributes:
        gradients: The forget and the retain gradient.
        update: What the combiner made of them, before clipping.
        before: The parameters before the optimiser's step.
        after: The parameters after it.
        forget_accuracy: The share of forget facts that the model still knows after the step; chance is 0.25.
    """

    gradients: dict[str, tuple[Tensor, Tensor]]
    update: dict[str, Tensor]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    forget_accuracy: float


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
    for step in facts_steps(steps, seed):
        yield step.gradients


def facts_steps(
    steps: int,
    seed: int = 0,
    combiner: Combiner | None = None,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
) -> Iterator[RealStep]:
    """Unlearn the built-in facts with gradient ascent, gradients clipped to norm 1, and yield every step.

    Args:
        steps: Optimiser steps.
        seed: Draws the batches of each step.
        combiner: Default: SAGO at :data:`FORGET_WEIGHT`.
        optimizer: Returns the optimiser of the parameters; default: AdamW as in the reproduction.

    Raises:
        MissingDependency: transformers is not installed (extra ``hf``).
    """
    from retainfirst.data import PairedCollator, load_pairs, pad_token_id
    from retainfirst.objectives import gradient_ascent, nll
    from retainfirst_lab.tasks import facts

    combiner = combiner or make_combiner("sago", gamma=FORGET_WEIGHT)
    model, tokenizer = facts.load()
    folder = facts.cached_folder()
    pairs = load_pairs(folder / "forget.jsonl", folder / "retain.jsonl", tokenizer)
    forget_facts = facts.facts_data()[0]
    collate = PairedCollator(pad_token_id(tokenizer))
    parameters = dict(model.named_parameters())
    made = (
        torch.optim.AdamW(parameters.values(), lr=_LEARNING_RATE)
        if optimizer is None
        else optimizer([*parameters.values()])
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = collate([pairs[i] for i in torch.randperm(len(pairs), generator=generator)[:_BATCH].tolist()])
        forget, retain = (
            dict(zip(parameters, torch.autograd.grad(loss(model, batch[task]), [*parameters.values()]), strict=True))
            for task, loss in (("forget", gradient_ascent), ("retain", nll))
        )
        update = {name: one for name, one in combine(forget, retain, combiner).items() if one is not None}
        for name, parameter in parameters.items():
            parameter.grad = update[name].clone()  # clipping overwrites it
        torch.nn.utils.clip_grad_norm_(parameters.values(), _CLIP)
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        made.step()
        yield RealStep(
            {name: (forget[name], retain[name]) for name in parameters},
            update,
            before,
            {name: parameter.detach().clone() for name, parameter in parameters.items()},
            facts.accuracy(model, tokenizer, forget_facts),
        )
