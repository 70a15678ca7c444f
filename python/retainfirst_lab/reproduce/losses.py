"""The two losses of a cell, as functions of a model and a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retainfirst.data import EncodedSet, collate
from retainfirst.objectives import get_objective, nll, reference_log_probs

__all__ = ["Loss", "make_losses", "rmu"]

Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]

OPTIONS: dict[str, dict[str, float]] = {"ga": {}, "npo": {"beta": 0.1}, "simnpo": {"beta": 1.0}}
"""Options of the objectives.

SimNPO's default beta of 4.5 is too steep for answers of one token: the gradient vanishes before they are forgotten, and plain
addition never reaches the target. 1.0 is the largest value in the paper.
"""

RMU_COEFFICIENT = 10.0
"""The length of the control vector, relative to the mean length of the hidden states."""


def make_losses(
    objective: str,
    model: nn.Module,
    forget: EncodedSet,
    pad_token_id: int,
    seed: int,
    options: Mapping[str, float] | None = None,
) -> tuple[Loss, Loss]:
    """Return the forget loss and the retain loss, both to be minimised.

    Args:
        objective: ``"ga"``, ``"npo"``, ``"simnpo"`` (each with NLL on retain), or ``"rmu"``.
        model: The target model, before the first step.
        forget: The forget set; NPO's reference log-probabilities are stored in it.
        pad_token_id: For padding batches.
        seed: Of RMU's control vector.
        options: Of the forget objective; None: :data:`OPTIONS`.
    """
    if objective == "rmu":
        return rmu(model, [collate([forget[i] for i in range(len(forget))], pad_token_id)], seed)
    if objective == "npo":
        rows = [collate([forget[i]], pad_token_id) for i in range(len(forget))]
        forget.set_reference_log_probs(reference_log_probs(model, rows))
    return partial(get_objective("forget", objective), **(OPTIONS[objective] if options is None else options)), nll


def rmu(model: Any, forget: Sequence[Mapping[str, Tensor]], seed: int, layer: int = 1) -> tuple[Loss, Loss]:
    """Return the two losses of representation misdirection (RMU).

    Both are mean squared errors over the hidden states of all tokens that are no padding: on forget rows, the error to a random
    vector; on retain rows, the error to the hidden states of the target model.

    Source: Li et al., "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning", 2024, arXiv 2403.03218.

    Args:
        model: The target model; the losses keep a frozen copy.
        forget: Batches from which the mean length of hidden states is taken.
        seed: Of the random vector.
        layer: The number of layers below the hidden states.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    lengths = torch.cat([_hidden(frozen, batch, layer).norm(dim=-1) for batch in forget])
    direction = torch.rand(frozen.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    control = direction / direction.norm() * RMU_COEFFICIENT * lengths.mean()

    def steer(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        hidden = _hidden(network, batch, layer)
        return functional.mse_loss(hidden, control.expand_as(hidden))

    def hold(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return functional.mse_loss(_hidden(network, batch, layer), _hidden(frozen, batch, layer))

    return steer, hold


def _hidden(model: Any, batch: Mapping[str, Tensor], layer: int) -> Tensor:
    """Hidden states of the tokens that are no padding, ``[tokens, width]``."""
    mask = batch["attention_mask"]
    states = model(input_ids=batch["input_ids"], attention_mask=mask, output_hidden_states=True).hidden_states[layer]
    found: Tensor = states[mask.bool()]
    return found
