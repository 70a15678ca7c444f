"""Losses whose descent keeps what the model can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from retainfirst.objectives._inputs import widened_logits
from retainfirst.objectives._items import NumItems
from retainfirst.objectives._reference import reference_mode
from retainfirst.objectives._sequence import token_nll

__all__ = ["kl", "nll"]


def nll(model: Callable[..., Any], batch: Mapping[str, Tensor], *, num_items: NumItems | None = None) -> Tensor:
    """The mean negative log-likelihood per labelled token of the batch.

    Source: GradDiff of open-unlearning with ``retain_loss_type: NLL``, which takes the model's own loss; the two differ
        for a mixture
    of experts that adds its load-balancing loss, which is left out here.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.
        num_items: Number of scored tokens to divide by in place of the batch's own (:func:`count_items`).

    Returns:
        A scalar, at least 0, in nats per token, to be minimised.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    return token_nll(model, batch, num_items)


def kl(
    model: Callable[..., Any],
    batch: Mapping[str, Tensor],
    *,
    reference: Callable[..., Any],
    num_items: NumItems | None = None,
) -> Tensor:
    """The divergence ``KL(reference || model)`` of the next-token distributions, averaged over positions.

    ``L = (1 / (B T)) sum_{b,t} sum_v p_ref(v) (log p_ref(v) - log p(v))``. All ``B T`` positions count, prompt and
    padding included: so does GradDiff of open-unlearning with ``retain_loss_type: KL``, and the numbers shall be the
    same. A token that the reference gives no probability adds 0, also where the model's logit is minus infinity (masked
    vocabularies).

    Args:
        model: The causal language model that unlearns.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.
        reference: The frozen reference model, or :func:`adapters_off` of a LoRA model. It runs as the model does: in
            eval mode, and under the autocast that accelerate gave the model.
        num_items: Number of positions to divide by in place of the batch's own.

    Returns:
        A scalar, at least 0 up to rounding, in nats per position, to be minimised.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    with reference_mode(model, reference):
        expected = functional.log_softmax(widened_logits(reference, batch), dim=-1)
    found = functional.log_softmax(widened_logits(model, batch), dim=-1)
    probabilities = expected.exp()
    terms = probabilities * (expected - found)
    # 0 times infinity would be NaN.
    total = terms.masked_fill_(probabilities == 0, 0.0).flatten(0, -2).sum()
    positions = expected.numel() // expected.shape[-1]
    if num_items is None:
        return total / positions
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)
