"""One cell: unlearn, and record the path from the target model until the facts are forgotten."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from retainfirst.data import EncodedSet, collate
from retainfirst.geometry import FIELDS
from retainfirst.step import Guard, TwoTaskStep
from retainfirst_lab.checkpoint import load_checkpoint, save_checkpoint, training_key
from retainfirst_lab.reproduce.design import Cell, Sizes
from retainfirst_lab.reproduce.losses import Loss, make_losses
from retainfirst_lab.reproduce.relearning import relearn
from retainfirst_lab.reproduce.same_state import same_state
from retainfirst_lab.reproduce.testbed import Testbed

__all__ = ["Batches", "run_cell", "train_step"]

_COSINES = FIELDS[:3]
_MAX_GRAD_NORM = 1.0


def run_cell(
    cell: Cell,
    testbed: Testbed,
    sizes: Sizes,
    checkpoint: Path | None = None,
    options: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Run a cell to its end.

    The path ends at the first point whose forget accuracy is at most the target, at the last step, or at a loss that is not
    finite. Seconds count the optimiser steps, not the measurements.

    Args:
        cell: Its settings.
        testbed: Its model and facts.
        sizes: Shared by all cells.
        checkpoint: A file that every point of the path is saved to; an interrupted cell resumes from it. None: no checkpoints.
        options: Of the forget objective; None: those of the reproduction.

    Returns:
        - ``path``: points with ``step``, ``seconds``, one accuracy for each measure, and the means of losses and cosines over the
          steps since the last point; with a guard also ``step_opposes_retain``, the share of these steps that oppose retention,
          ``cos_step_retain``, and ``put_back_fraction``.
        - ``same_state``: the geometry of every combiner at the states of the path; empty unless the cell has common states.
        - ``lm_eval``: accuracies of the target model and of the end model; empty if the cell is not judged.
        - ``relearning``: see :func:`~retainfirst_lab.reproduce.relearning.relearn`.
    """
    model = testbed.model()
    known = testbed.remaining(model)
    losses = make_losses(cell.objective, model, testbed.forget, testbed.pad_token_id, cell.seed, options)
    batches = [
        Batches(rows, sizes.batch_size, testbed.pad_token_id, cell.seed) for rows in (testbed.forget, testbed.retain)
    ]
    step = TwoTaskStep(model, cell.combiner())
    optimizer = cell.make_optimizer(model.parameters())
    guard = cell.watch(step, optimizer)
    key = training_key(
        model, [cell.as_dict(), asdict(replace(sizes, max_steps=0))]
    )  # a longer path goes on from a shorter one
    progress = load_checkpoint(checkpoint, model, optimizer, key) or {
        "path": [{"step": 0, "seconds": 0.0, **testbed.accuracies(model)}],
        "same_state": [],
    }
    path = progress["path"]
    seconds = path[-1]["seconds"]
    while not _ended(path, sizes):
        first = path[-1]["step"] + 1
        since: list[dict[str, float]] = []
        for number in range(first, first + sizes.evaluate_every):
            pair = [part[number - 1] for part in batches]
            if number == first and cell.common_states:
                progress["same_state"].append({"step": number - 1, **same_state(model, losses, pair, cell)})
            start = time.perf_counter()
            since.append(train_step(model, step, optimizer, losses, pair, guard))
            seconds += time.perf_counter() - start
        means = {name: fmean(entry[name] for entry in since) for name in since[0]}
        path.append({"step": number, "seconds": seconds, **testbed.accuracies(model), **means})
        if checkpoint is not None:
            save_checkpoint(checkpoint, model, optimizer, progress, key)
    judged: dict[str, dict[str, float]] = {"target": {}, "end": {}}
    if cell.judged:
        judged = {"target": testbed.judged_target(), "end": testbed.judge(model)}
    return {**progress, "lm_eval": judged, "relearning": relearn(model, testbed, sizes, known)}


def _ended(path: Sequence[Mapping[str, float]], sizes: Sizes) -> bool:
    last = path[-1]
    broken = not all(math.isfinite(last.get(name, 0.0)) for name in ("forget_loss", "retain_loss"))
    return broken or last["forget"] <= sizes.target or last["step"] + sizes.evaluate_every > sizes.max_steps


def train_step(
    model: Any,
    step: TwoTaskStep,
    optimizer: torch.optim.Optimizer,
    losses: tuple[Loss, Loss],
    pair: Sequence[Mapping[str, Tensor]],
    guard: Guard | None,
) -> dict[str, float]:
    """Take one optimiser step, and return its losses and cosines, with those of the guard."""
    with step.forget():
        forget = losses[0](model, pair[0])
        forget.backward()  # type: ignore[no-untyped-call]
    with step.retain():
        retain = losses[1](model, pair[1])
        retain.backward()  # type: ignore[no-untyped-call]
    geometry = step.combine()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad()
    cosines = {name: getattr(geometry, name) for name in _COSINES}
    return {"forget_loss": forget.item(), "retain_loss": retain.item(), **cosines, **_moved(guard)}


def _moved(guard: Guard | None) -> dict[str, float]:
    """The numbers of the parameters' movement; without a guard none."""
    if guard is None or guard.geometry is None:
        return {}
    found = guard.geometry
    return {
        "step_opposes_retain": float(found.opposes),
        "cos_step_retain": found.cos_step_retain,
        "put_back_fraction": found.put_back_fraction,
    }


class Batches:
    """Shuffled batches by step number, the same for every combiner and for a resumed run."""

    def __init__(self, rows: EncodedSet, size: int, pad_token_id: int, seed: int) -> None:
        self._rows, self._size, self._pad, self._seed = rows, min(size, len(rows)), pad_token_id, seed

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = divmod(index, len(self._rows) // self._size)
        order = list(range(len(self._rows)))
        random.Random(f"{self._seed}:{epoch}").shuffle(order)
        return collate([self._rows[i] for i in order[place * self._size :][: self._size]], self._pad)
