"""Losses whose descent keeps what the model can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from retainfirst.objectives._sequence import model_inputs, widened_logits

__all__ = ["kl", "nll"]


def nll(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """The mean negative log-likelihood per labelled token of the batch, the model's own loss.

    Source: GradDiff of open-unlearning with ``retain_loss_type: NLL``.

    Args:
        model: A causal language model that computes ``loss`` from ``labels``.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.

    Returns:
        A scalar, at least 0, in nats per token, to be minimised.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    loss: Tensor = model(**model_inputs(batch, labels=True)).loss
    return loss


def kl(model: Callable[..., Any], batch: Mapping[str, Tensor], *, reference: Callable[..., Any]) -> Tensor:
    """The divergence ``KL(reference || model)`` of the next-token distributions, averaged over positions.

    ``L = (1 / (B T)) sum_{b,t} sum_v p_ref(v) (log p_ref(v) - log p(v))``. All ``B T`` positions count,
    prompt and padding included: so does GradDiff of open-unlearning with ``retain_loss_type: KL``, and the
    numbers shall be the same.

    Args:
        model: The causal language model that unlearns.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.
        reference: The frozen reference model in eval mode, or :func:`adapters_off` of a LoRA model.

    Returns:
        A scalar, at least 0 up to rounding, in nats per position, to be minimised.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    with torch.no_grad():
        expected = functional.log_softmax(widened_logits(reference, batch), dim=-1)
    found = functional.log_softmax(widened_logits(model, batch), dim=-1)
    return functional.kl_div(found.flatten(0, -2), expected.flatten(0, -2), reduction="batchmean", log_target=True)
