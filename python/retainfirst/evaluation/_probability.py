"""How probable a model makes the labelled answers of a set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import distributed, nn

from retainfirst.data import collate
from retainfirst.objectives import answer_probabilities, evaluation_mode

__all__ = ["AnswerProbability", "Measure", "answer_probability"]


class Rows(Protocol):
    """A sequence of tokenised rows, such as a :class:`~retainfirst.data.EncodedSet`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class Pairs(Protocol):
    """The data of a run, such as a :class:`~retainfirst.data.PairedDataset`."""

    @property
    def forget(self) -> Rows: ...
    @property
    def retain(self) -> Rows: ...


def answer_probability(
    model: nn.Module,
    examples: Rows,
    pad_token_id: int,
    *,
    rows: int | None = None,
    batch_size: int = 16,
    across_processes: bool = False,
) -> float:
    """Return the mean probability of the labelled answers (TOFU's "Probability").

    The probability of an answer is the geometric mean of its tokens' probabilities, so that length does not matter.

    Args:
        model: A causal language model; its training mode is restored afterwards.
        examples: The rows.
        pad_token_id: The token to pad with.
        rows: Measure the first rows only; None: all.
        batch_size: Rows in a forward pass.
        across_processes: Share the rows among the processes of torch.distributed, if it runs; all of them must call, and all get
            the same number.

    Returns:
        A number from 0 to 1, or NaN if the model's output is.
    """
    count = min(rows or len(examples), len(examples))
    rank, world = _process() if across_processes else (0, 1)
    # Each process has as many forward passes: sharded models communicate in them. The rows beyond the last count 0.
    mine = range(rank, math.ceil(count / world) * world, world)
    chosen = [examples[min(i, count - 1)] for i in mine]
    device = next(model.parameters()).device
    found = []
    with torch.no_grad(), evaluation_mode(model):
        for start in range(0, len(chosen), batch_size):
            batch = collate(chosen[start : start + batch_size], pad_token_id)
            found.append(answer_probabilities(model, {key: value.to(device) for key, value in batch.items()}))
    probabilities = torch.cat(found).cpu().double()
    if world == 1:
        return float(probabilities.mean())
    total = probabilities.where(torch.tensor([i < count for i in mine]), 0.0).sum().to(device)
    distributed.all_reduce(total)
    return float(total) / count


def _process() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


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
        across_processes: Share the rows among the processes, which all measure at once (:func:`answer_probability`).
    """

    pairs: Pairs
    pad_token_id: int
    rows: int
    batch_size: int
    name: str = "probability"
    across_processes: bool = False

    def forget(self, model: nn.Module) -> float:
        """Return the mean probability of the forget answers."""
        return self._of(model, self.pairs.forget)

    def retain(self, model: nn.Module) -> float:
        """Return the mean probability of the retain answers."""
        return self._of(model, self.pairs.retain)

    def _of(self, model: nn.Module, examples: Rows) -> float:
        return answer_probability(
            model, examples, self.pad_token_id, rows=self.rows, batch_size=self.batch_size, across_processes=self.across_processes
        )  # fmt: skip
