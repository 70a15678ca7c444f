"""How much of each set a model still gives: measured before, during and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from retainfirst.data import EncodedSet, PairedDataset, collate
from retainfirst.objectives import answer_probabilities
from retainfirst.objectives._sequence import evaluation_mode

__all__ = ["AnswerProbability", "Measure"]


class Measure(Protocol):
    """Tells how much of the two sets a model knows, each in [0, 1]."""

    name: str

    def forget(self, model: nn.Module) -> float:
        """Return the measure on the forget set."""

    def retain(self, model: nn.Module) -> float:
        """Return the measure on the retain set."""


@dataclass
class AnswerProbability:
    """Mean length-normalised probability of the labelled answers (TOFU's "Probability") on the first rows of each set.

    Args:
        pairs: The data of the run.
        pad_token_id: What to pad with.
        rows: How many rows of each set to measure, at most.
        batch_size: Rows a forward pass.
    """

    pairs: PairedDataset
    pad_token_id: int
    rows: int
    batch_size: int
    name: str = "probability"

    def forget(self, model: nn.Module) -> float:
        """Mean probability of the forget answers."""
        return self._mean(model, self.pairs.forget)

    def retain(self, model: nn.Module) -> float:
        """Mean probability of the retain answers."""
        return self._mean(model, self.pairs.retain)

    def _mean(self, model: nn.Module, examples: EncodedSet) -> float:
        chosen = [examples[i] for i in range(min(self.rows, len(examples)))]
        device = next(model.parameters()).device
        found = []
        with torch.no_grad(), evaluation_mode(model):
            for start in range(0, len(chosen), self.batch_size):
                batch = collate(chosen[start : start + self.batch_size], self.pad_token_id)
                found.append(answer_probabilities(model, {key: value.to(device) for key, value in batch.items()}))
        return float(torch.cat(found).cpu().double().mean())
