"""Losses whose descent makes the labelled tokens less probable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from retainfirst.errors import RetainFirstError, ShapeMismatch
from retainfirst.objectives._items import NumItems, mean_over
from retainfirst.objectives._reference import reference_mode
from retainfirst.objectives._sequence import label_counts, sequence_log_probs, token_nll

__all__ = ["gradient_ascent", "npo", "simnpo"]


def gradient_ascent(
    model: Callable[..., Any], batch: Mapping[str, Tensor], *, num_items: NumItems | None = None
) -> Tensor:
    """Minus the mean negative log-likelihood per labelled token of the batch.

    ``L = -NLL(batch)``, not bounded from below. Source: GradAscent and GradDiff of open-unlearning, which take the
    model's own loss; the two differ for a mixture of experts that adds its load-balancing loss, which is not ascended
    here.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.
        num_items: Number of scored tokens to divide by in place of the batch's own (:func:`count_items`).

    Returns:
        A scalar, at most 0, to be minimised.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    return -token_nll(model, batch, num_items)


def npo(
    model: Callable[..., Any],
    batch: Mapping[str, Tensor],
    *,
    beta: float = 0.1,
    reference: Callable[..., Any] | None = None,
    num_items: NumItems | None = None,
) -> Tensor:
    """Negative preference optimisation: push an answer's probability below the reference's.

    ``L = -(2/beta) mean_b log sigmoid(-beta (log p(y_b|x_b) - log p_ref(y_b|x_b)))``, with log-probabilities
    summed over the labelled tokens of a sequence. Source: Zhang et al., "Negative Preference Optimization:
    From Catastrophic Collapse to Effective Unlearning", 2024, arXiv 2404.05868 (the NPO loss); NPO of
    open-unlearning.

    Args:
        model: The causal language model that unlearns.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``; without a ``reference`` also
            ``reference_logps``, ``[B]``, floating point, as :func:`reference_log_probs` computes them.
        beta: Inverse temperature, above 0; toward 0 the gradient becomes that of gradient ascent on the sums.
        reference: The frozen reference model, or :func:`adapters_off`; it wins over ``reference_logps``. It runs as the
            model does: in eval mode, and under the autocast that accelerate gave the model.
        num_items: Number of rows to divide by in place of the batch's own.

    Returns:
        A scalar, above 0, to be minimised; ``(2/beta) log 2`` at the reference itself.

    Raises:
        RetainFirstError: ``beta`` is not a positive number, the batch lacks a key, or neither a reference nor
            ``reference_logps`` is given.
        ShapeMismatch: ``reference_logps`` is not one number a row.
    """
    _check_beta(beta)
    reference_logps = _reference_logps(model, reference, batch)
    log_probs = sequence_log_probs(model, batch)
    if reference_logps.shape != log_probs.shape:
        raise ShapeMismatch(
            f"reference_logps has shape {tuple(reference_logps.shape)}, "
            f"but the batch has {len(log_probs)} rows. Give one log-probability a row."
        )
    log_ratio = log_probs - reference_logps.to(log_probs)
    return -2 / beta * mean_over(functional.logsigmoid(-beta * log_ratio), num_items)


def simnpo(
    model: Callable[..., Any],
    batch: Mapping[str, Tensor],
    *,
    beta: float = 4.5,
    delta: float = 0.0,
    num_items: NumItems | None = None,
) -> Tensor:
    """Simple NPO: no reference; the answer's mean log-probability per token is pushed below a margin.

    ``L = -(2/beta) mean_b log sigmoid(beta (-log p(y_b|x_b) / |y_b| - delta))``, with ``|y_b|`` the number of scored
    tokens. Source: Fan et al., "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
    2024, arXiv 2410.07163 (its margin ``gamma`` is ``beta * delta`` here); SimNPO of open-unlearning, whose defaults
    these are. That trainer counts the label of a row's first token in ``|y_b|``, which is never scored; its own data
    sets never label it.

    Args:
        model: The causal language model that unlearns.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.
        beta: Inverse temperature, above 0.
        delta: Margin in nats per token: the mean negative log-likelihood at which a row's weight is half.
        num_items: Number of rows to divide by in place of the batch's own.

    Returns:
        A scalar, above 0, to be minimised.

    Raises:
        RetainFirstError: ``beta`` is not a positive number, ``delta`` is not finite, or a key is missing.
    """
    _check_beta(beta)
    if not math.isfinite(delta):
        raise RetainFirstError(f"delta must be a finite number, found {delta}.")
    log_probs = sequence_log_probs(model, batch)
    mean_nll = -log_probs / label_counts(batch).to(log_probs.device)
    return -mean_over(functional.logsigmoid(beta * (mean_nll - delta)), num_items) * 2 / beta


def _check_beta(beta: float) -> None:
    if not (math.isfinite(beta) and beta > 0):
        raise RetainFirstError(f"beta must be a finite number above 0, found {beta}.")


def _reference_logps(
    model: Callable[..., Any], reference: Callable[..., Any] | None, batch: Mapping[str, Tensor]
) -> Tensor:
    if reference is not None:
        with reference_mode(model, reference):
            return sequence_log_probs(reference, batch)
    if "reference_logps" not in batch:
        raise RetainFirstError(
            "NPO needs a reference: give `reference`, a frozen copy of the model, or put 'reference_logps' "
            "into the batch (see reference_log_probs). "
            f"Found neither; the batch has {', '.join(map(repr, batch))}."
        )
    return batch["reference_logps"]
