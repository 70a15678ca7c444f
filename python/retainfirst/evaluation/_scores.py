"""One forward pass over labelled rows, from which several metrics are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.data import EncodedSet, Example, collate
from retainfirst.objectives import IGNORE_INDEX, evaluation_mode, scored_labels, widened_logits

__all__ = ["AnswerScores", "score_answers"]


@dataclass(frozen=True)
class AnswerScores:
    """What a model gives to the labelled tokens of one row, in their order.

    Attributes:
        log_probs: Shape ``[tokens]``, float64, in nats: the log-probability of each token after those before it.
        greedy: Shape ``[tokens]``: whether the token is the most probable one there.
    """

    log_probs: Tensor
    greedy: Tensor


def score_answers(
    model: nn.Module,
    examples: EncodedSet | Sequence[Example],
    pad_token_id: int,
    *,
    batch_size: int = 16,
    advance: Callable[[int], Any] | None = None,
) -> list[AnswerScores]:
    """Score the labelled tokens of rows by teacher forcing.

    Args:
        model: A causal language model; its training mode is restored afterwards.
        examples: The rows.
        pad_token_id: The token to pad with.
        batch_size: Rows in a forward pass; rows of like length are together.
        advance: Called after each batch with its number of rows.

    Returns:
        One entry a row, in the rows' order.
    """
    rows = [examples[i] for i in range(len(examples))]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    device = next(model.parameters()).device
    found: list[AnswerScores | None] = [None] * len(rows)
    with torch.no_grad(), evaluation_mode(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = {key: value.to(device) for key, value in collate([rows[i] for i in chosen], pad_token_id).items()}
            logits, targets = widened_logits(model, batch), scored_labels(batch)
            for i, one, labels in zip(chosen, logits, targets.to(logits.device), strict=True):
                found[i] = _scores(one, labels)
            if advance is not None:
                advance(len(chosen))
    return [one for one in found if one is not None]


def _scores(logits: Tensor, targets: Tensor) -> AnswerScores:
    """Score one row: ``targets`` has at each position the token that it is to predict."""
    scored = targets != IGNORE_INDEX
    logits, targets = logits[scored], targets[scored]
    log_probs = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return AnswerScores(log_probs.cpu().double(), (logits.argmax(-1) == targets).cpu())
