"""Forget and retain losses as plain functions of a model and a batch, each to be minimised.

``model`` is anything that takes ``input_ids`` and ``attention_mask`` by keyword and returns an object with ``logits``
of shape ``[B, T, V]``, as the causal language models of transformers do. ``batch`` maps those two names and ``labels``
to LongTensors ``[B, T]``; a label of -100 is ignored, and every row needs at least one other label after its first
token. Further keys, such as ``position_ids``, reach the model if its ``forward`` names them. The losses are computed
from the logits, never by the model.

The formulas, signs and normalisations are those of the trainers of the same name in open-unlearning
(github.com/locuslab/open-unlearning, ``src/trainer``), so that results compare; 16-bit logits are widened to float32
first. Each loss is a mean over tokens or rows (:data:`ITEMS`); with ``num_items`` it is the sum divided by that number,
for gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.objectives._forget import gradient_ascent, npo, simnpo
from retainfirst.objectives._inputs import scored_labels, widened_logits
from retainfirst.objectives._items import ITEMS, count_items
from retainfirst.objectives._reference import adapters_off, reference_log_probs
from retainfirst.objectives._retain import kl, nll
from retainfirst.objectives._sequence import (
    IGNORE_INDEX,
    answer_probabilities,
    evaluation_mode,
    sequence_log_probs,
)

__all__ = [
    "FORGET_OBJECTIVES",
    "IGNORE_INDEX",
    "ITEMS",
    "RETAIN_OBJECTIVES",
    "adapters_off",
    "answer_probabilities",
    "count_items",
    "evaluation_mode",
    "get_objective",
    "gradient_ascent",
    "kl",
    "nll",
    "npo",
    "reference_log_probs",
    "scored_labels",
    "sequence_log_probs",
    "simnpo",
    "widened_logits",
]

FORGET_OBJECTIVES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"ga": gradient_ascent, "npo": npo, "simnpo": simnpo}
)
"""Forget losses by the name that the command line uses."""

RETAIN_OBJECTIVES: Mapping[str, Callable[..., Tensor]] = MappingProxyType({"nll": nll, "kl": kl})
"""Retain losses by the name that the command line uses."""


def get_objective(kind: Literal["forget", "retain"], name: str) -> Callable[..., Tensor]:
    """Return the loss of that name.

    Args:
        kind: ``"forget"`` or ``"retain"``.
        name: A key of :data:`FORGET_OBJECTIVES` or of :data:`RETAIN_OBJECTIVES`.

    Returns:
        The function; its options differ by objective and are given by keyword.

    Raises:
        RetainFirstError: There is no such objective (the text gives the nearest name), or no such kind.
    """
    kinds = {"forget": FORGET_OBJECTIVES, "retain": RETAIN_OBJECTIVES}
    if kind not in kinds:
        raise RetainFirstError(f"Unknown kind of objective {kind!r}. {did_you_mean(str(kind), kinds)}")
    known = kinds[kind]
    if name not in known:
        raise RetainFirstError(f"Unknown {kind} objective {name!r}. {did_you_mean(str(name), known)}")
    return known[name]
