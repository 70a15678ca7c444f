"""Log-probabilities of labelled tokens, which the losses, the references and the evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from retainfirst.objectives._inputs import IGNORE_INDEX, scored_labels, widened_logits

__all__ = ["IGNORE_INDEX", "answer_probabilities", "evaluation_mode", "label_counts", "sequence_log_probs", "token_nll"]


def token_nll(
    model: Callable[..., Any], batch: Mapping[str, Tensor], num_items: float | Tensor | None = None
) -> Tensor:
    """Average the negative log-likelihood over the scored tokens of the batch.

    The value and gradient of the loss of transformers' causal language models, to the last bit, without the terms that
    some of them add, such as the load balancing of a mixture of experts.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.
        num_items: Divide the sum by this in place of the batch's own number of scored tokens.

    Returns:
        A scalar, at least 0, in nats per token.
    """
    logits = widened_logits(model, batch)
    targets = scored_labels(batch).to(logits.device).flatten()
    logits = logits.flatten(0, 1)
    if num_items is None:
        return functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX)
    total = functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)


def sequence_log_probs(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Sum the log-probabilities of the labelled tokens of each row, ``log p(answer | prompt)``.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``. The label of a token that nothing
            predicts is not
            counted: a row's first token, also after padding on the left, and the first token of each packed sequence.

    Returns:
        Shape ``[B]``, float32 (float64 for a float64 model), each at most 0, in nats; differentiable.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    logits = widened_logits(model, batch)[:, :-1, :]
    targets = scored_labels(batch)[:, :-1].to(logits.device)
    losses = functional.cross_entropy(logits.transpose(-1, -2), targets, ignore_index=IGNORE_INDEX, reduction="none")
    return -losses.sum(dim=-1)


def label_counts(batch: Mapping[str, Tensor]) -> Tensor:
    """Count the scored tokens of each row: ``[B]``, int64."""
    return (scored_labels(batch) != IGNORE_INDEX).sum(dim=-1)


def answer_probabilities(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Return the length-normalised probability of each row's answer, ``p(answer | prompt)^(1/|answer|)``.

    This is TOFU's "Probability" (Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", 2024, arXiv
    2401.06121, section 2.2): the geometric mean of the labelled tokens' probabilities. open-unlearning divides by the
    number of labels, which is larger by one where the first token of a row has a label.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.

    Returns:
        Shape ``[B]``, float32 or float64, in [0, 1]; differentiable.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    log_probs = sequence_log_probs(model, batch)
    return (log_probs / label_counts(batch).to(log_probs.device)).exp()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a block; afterwards every module has the mode that it had."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
