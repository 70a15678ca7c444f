"""How probable a model makes the labelled answers of a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from retainfirst.data import EncodedSet, PairedDataset, collate
from retainfirst.objectives import answer_probabilities, evaluation_mode

__all__ = ["AnswerProbability", "Measure", "answer_probability"]


def answer_probability(
    model: nn.Module, examples: EncodedSet, pad_token_id: int, *, rows: int | None = None, batch_size: int = 16
) -> float:
    """Return the mean probability of the labelled answers (TOFU's "Probability").

    The probability of an answer is the geometric mean of its tokens' probabilities, so that length does not matter.

    Args:
        model: A causal language model; its training mode is restored afterwards.
        examples: The rows.
        pad_token_id: The token to pad with.
        rows: Measure the first rows only; None: all.
        batch_size: Rows in a forward pass.

    Returns:
        A number from 0 to 1, or NaN if the model's output is.
    """
    chosen = [examples[i] for i in range(min(rows or len(examples), len(examples)))]
    device = next(model.parameters()).device
    found = []
    with torch.no_grad(), evaluation_mode(model):
        for start in range(0, len(chosen), batch_size):
            batch = collate(chosen[start : start + batch_size], pad_token_id)
            found.append(answer_probabilities(model, {key: value.to(device) for key, value in batch.items()}))
    return float(torch.cat(found).cpu().double().mean())


class Measure(Protocol):
    """One metric on both sets of a run; each value is in [0, 1]."""

    name: str

    def forget(self, model: nn.Module) -> float:
        """Return the metric on the forget set."""

    def retain(self, model: nn.Module) -> float:
        """Return the metric on the retain set."""


@dataclass
class AnswerProbability:
    """:func:`answer_probability` on the first rows of both sets of a run.

    Args:
        pairs: The data of the run.
        pad_token_id: The token to pad with.
        rows: The largest number of rows to measure of each set.
        batch_size: Rows in a forward pass.
    """

    pairs: PairedDataset
    pad_token_id: int
    rows: int
    batch_size: int
    name: str = "probability"

    def forget(self, model: nn.Module) -> float:
        """Return the mean probability of the forget answers."""
        return self._of(model, self.pairs.forget)

    def retain(self, model: nn.Module) -> float:
        """Return the mean probability of the retain answers."""
        return self._of(model, self.pairs.retain)

    def _of(self, model: nn.Module, examples: EncodedSet) -> float:
        return answer_probability(model, examples, self.pad_token_id, rows=self.rows, batch_size=self.batch_size)
