"""One cell of the part on attacks: unlearn, then quantise and relearn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from retainfirst.evaluation import quantizable, quantized, round_to_nearest
from retainfirst_lab.reproduce.attack_design import QUANTISERS, AttackCell
from retainfirst_lab.reproduce.design import Sizes
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed
from retainfirst_lab.reproduce.relearning import relearn

__all__ = ["attacked", "recovered"]


def attacked(cell: AttackCell, testbed: FactsTestbed, sizes: Sizes) -> dict[str, Any]:
    """Unlearn in one cell, and attack the model.

    Args:
        cell: Its settings.
        testbed: The facts of its seed.
        sizes: Of the run.

    Returns:
        ``steps``; accuracies ``before``, ``after`` and after each quantiser (``quantised``); the share of 4-bit weights that are
        others than in the quantised model before (``moved_codes``); and ``relearning``, see
        :func:`~retainfirst_lab.reproduce.relearning.relearn`.
    """
    model = testbed.model()
    before, known = testbed.accuracies(model), testbed.remaining(model)
    original = {name: weight.detach().clone() for name, weight in quantizable(model).items()}
    steps = cell.unlearn(model, testbed, sizes)
    return {
        "steps": steps,
        "before": before,
        "after": testbed.accuracies(model),
        "quantised": {name: _quantised(model, testbed, *setting) for name, setting in QUANTISERS.items()},
        "moved_codes": _moved_codes(model, original, 4),
        "relearning": relearn(model, testbed, sizes, known),
    }


def _quantised(model: Any, testbed: FactsTestbed, bits: int, group: int | None) -> dict[str, float]:
    with quantized(model, bits, group):
        return testbed.accuracies(model)


def _moved_codes(model: Any, original: Mapping[str, torch.Tensor], bits: int) -> float:
    """Return the share of quantised weights that are another multiple of their scale than in the quantised model before."""
    moved = total = 0
    for name, weight in quantizable(model).items():
        now, then = round_to_nearest(weight, bits), round_to_nearest(original[name], bits)
        scale = then.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        # The scale itself moves a little, so that equal multiples differ by less than half of it.
        moved += int(((now - then).abs() > scale / 2).sum())
        total += now.numel()
    return moved / total


def recovered(row: Mapping[str, Any], attack: str) -> float | None:
    """Return the share of the lost forget accuracy that an attack brings back; None if nothing was lost.

    Args:
        row: The result of :func:`attacked`.
        attack: One of :data:`~retainfirst_lab.reproduce.attack_design.ATTACKS`.
    """
    if attack == "relearning":
        regained: float | None = row["relearning"]["regained"]
        return regained
    before, after = row["before"]["forget"], row["after"]["forget"]
    return float((row["quantised"][attack]["forget"] - after) / (before - after)) if before > after else None
