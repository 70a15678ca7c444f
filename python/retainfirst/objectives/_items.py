"""What a loss averages over, so that micro-batches of uneven length add up to the large batch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.objectives._inputs import IGNORE_INDEX, check_batch, scored_labels

__all__ = ["ITEMS", "NumItems", "count_items", "mean_over"]

NumItems: TypeAlias = float | Tensor
"""A number of items, as a number or as a tensor with one element."""

ITEMS: Mapping[str, Literal["tokens", "rows", "positions"]] = MappingProxyType(
    {"ga": "tokens", "npo": "rows", "simnpo": "rows", "nll": "tokens", "kl": "positions"}
)
"""What each objective is a mean over: scored tokens, rows, or all positions with padding."""


def count_items(objective: str, batch: Mapping[str, Tensor]) -> Tensor:
    """Count the items of a batch that an objective averages over.

    Each objective divides by this number unless it is given another one as ``num_items``. With the sum over the
    micro-batches of all processes, the sum of the losses is the loss of the large batch: of GA, NLL, NPO and SimNPO up
    to rounding. KL counts padding, so for it the large batch must be padded as the micro-batches are.

    Args:
        objective: A key of :data:`ITEMS`.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.

    Returns:
        A scalar, int64, on the batch's device.

    Raises:
        RetainFirstError: There is no such objective, or the batch lacks a key.
    """
    if objective not in ITEMS:
        raise RetainFirstError(f"Unknown objective {objective!r}. {did_you_mean(str(objective), ITEMS)}")
    check_batch(batch)
    labels = batch["labels"]
    if ITEMS[objective] == "tokens":
        return (scored_labels(batch) != IGNORE_INDEX).sum()
    return torch.tensor(len(labels) if ITEMS[objective] == "rows" else labels.numel(), device=labels.device)


def mean_over(values: Tensor, num_items: NumItems | None) -> Tensor:
    """Return the mean, or the sum divided by ``num_items``."""
    if num_items is None:
        return values.mean()
    return values.sum() / (num_items.to(values.device) if isinstance(num_items, Tensor) else num_items)
