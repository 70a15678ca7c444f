"""Does it come back? Quantisation and relearning after unlearning, for each rule at equal forgetting.

Claims, stated before the first run:

- Q4: after 4-bit quantisation (round to nearest, one scale a channel), more of the forget accuracy is back with SAGO than
  with plain addition, because SAGO zeroes the coordinates in conflict, so that its model stays nearer to the one before.
- Q8: after 8-bit quantisation nothing is back, with any rule.
- R: relearning on some forget facts brings more of the others back with SAGO than with plain addition.

A claim holds if the 95 % bootstrap interval of the paired difference over seeds lies above 0; Q8 holds if every interval of
the recovered share has its ends within 0.05 of 0.

Every rule unlearns the built-in facts (gamma / alpha = 4, AdamW) until the forget accuracy is at most 0.30; chance is 0.25.
The recovered share is ``(attacked - after) / (before - after)`` in forget accuracy. Relearning trains on 16 forget facts and
measures the others.

    python -m retainfirst_lab.studies.attacks [--seeds 200,201] [--objectives ga] [--rates 3e-4] [--guards off]
        [--max-steps 200] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.optim import Optimizer

from retainfirst.evaluation import quantizable, quantized, round_to_nearest
from retainfirst.files import write_json
from retainfirst.step import TwoTaskStep
from retainfirst_lab.report import Table, markdown, terminal
from retainfirst_lab.reproduce.design import MAIN, Sizes
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed, facts_config
from retainfirst_lab.reproduce.guard_design import GUARDS, GuardCell
from retainfirst_lab.reproduce.losses import make_losses
from retainfirst_lab.reproduce.path import Batches, train_step
from retainfirst_lab.reproduce.relearning import relearn
from retainfirst_lab.reproduce.statistics import mean_and_spread, paired_difference

__all__ = ["QUANTISERS", "Row", "Unlearn", "attacked", "cells", "recovered", "tables", "unlearn"]

QUANTISERS = {"8 bits": (8, None), "8 bits, groups": (8, 64), "4 bits": (4, None), "4 bits, groups": (4, 64)}
"""Bits and group size; without one, each output channel has a scale."""

Row = dict[str, Any]

Unlearn = Callable[[Any, GuardCell, FactsTestbed, Sizes], int]


def cells(
    objectives: Sequence[str], rates: Sequence[float], seeds: Sequence[int], guards: Sequence[str] = GUARDS
) -> list[GuardCell]:
    """Return every rule with and without the guard. Seeds are the outermost loop."""
    return [
        GuardCell("facts", objective, variant.label, 4.0, rate, seed, "adamw", guard)
        for seed in seeds
        for objective in objectives
        for rate in rates
        for variant in MAIN
        for guard in guards
    ]


def attacked(cell: GuardCell, testbed: FactsTestbed, sizes: Sizes, method: Unlearn | None = None) -> Row:
    """Unlearn in one cell, and attack the model.

    Args:
        cell: Its settings.
        testbed: The facts of its seed.
        sizes: Of the run.
        method: Unlearns in place and returns the number of steps; None: :func:`unlearn`.

    Returns:
        The cell's settings; ``steps``; accuracies ``before``, ``after`` and after each quantiser (``quantised``); the share of
        4-bit weights that are others than in the quantised model before (``moved_codes``); and ``relearning``.
    """
    model = testbed.model()
    before, known = testbed.accuracies(model), testbed.remaining(model)
    original = {name: weight.detach().clone() for name, weight in quantizable(model).items()}
    steps = (method or unlearn)(model, cell, testbed, sizes)
    row: Row = {"cell": asdict(cell), "steps": steps, "before": before, "after": testbed.accuracies(model)}
    row["quantised"] = {name: _quantised(model, testbed, *setting) for name, setting in QUANTISERS.items()}
    row["moved_codes"] = _moved_codes(model, original, 4)
    row["relearning"] = relearn(model, testbed, sizes, known)
    return row


def unlearn(
    model: Any,
    cell: GuardCell,
    testbed: FactsTestbed,
    sizes: Sizes,
    look: Callable[[Optimizer, float], Any] = lambda *_: None,
) -> int:
    """Unlearn in place until the forget accuracy is at most the target, and return the number of steps.

    Args:
        model: Its frozen parameters are left alone.
        cell: The settings.
        testbed: The facts.
        sizes: Of the run.
        look: Called with the optimiser and the forget accuracy after each measurement.
    """
    losses = make_losses(cell.objective, model, testbed.forget, testbed.pad_token_id, cell.seed)
    forget, retain = (
        Batches(rows, sizes.batch_size, testbed.pad_token_id, cell.seed) for rows in (testbed.forget, testbed.retain)
    )
    step = TwoTaskStep(model, cell.combiner())
    optimizer = cell.make_optimizer(model.parameters())
    guard = cell.watch(step, optimizer)
    number = 0
    while number < sizes.max_steps:
        train_step(model, step, optimizer, losses, (forget[number], retain[number]), guard)
        number += 1
        if number % sizes.evaluate_every == 0:
            accuracy = testbed.accuracy(model, "forget")
            if accuracy <= sizes.target:
                break
            look(optimizer, accuracy)
    guard.remove()
    return number


def _quantised(model: Any, testbed: FactsTestbed, bits: int, group: int | None) -> dict[str, float]:
    with quantized(model, bits, group):
        return testbed.accuracies(model)


def _moved_codes(model: Any, original: dict[str, torch.Tensor], bits: int) -> float:
    """Return the share of quantised weights that are another multiple of their scale than in the quantised model before."""
    moved = total = 0
    for name, weight in quantizable(model).items():
        now, then = round_to_nearest(weight, bits), round_to_nearest(original[name], bits)
        scale = then.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        # The scale itself moves a little, so that equal multiples differ by less than half of it.
        moved += int(((now - then).abs() > scale / 2).sum())
        total += now.numel()
    return moved / total


def recovered(row: Row, name: str) -> float:
    """Return the share of the lost forget accuracy that an attack brings back."""
    before, after = row["before"]["forget"], row["after"]["forget"]
    if name == "relearning":
        return float(row["relearning"]["regained"])
    return float((row["quantised"][name]["forget"] - after) / (before - after))


def tables(rows: Sequence[Row], target: float) -> list[Table]:
    """Return a table of what came back, and one of the differences between the rules and plain addition."""
    reached = [row for row in rows if row["after"]["forget"] <= target]
    groups: dict[tuple[str, float, str, str], list[Row]] = {}
    for row in reached:
        cell = row["cell"]
        groups.setdefault((cell["objective"], cell["learning_rate"], cell["guard"], cell["variant"]), []).append(row)
    attacks = [*QUANTISERS, "relearning"]
    shown = [
        [objective, f"{rate:g}", guard, variant, str(len(found)), f"{fmean(row['steps'] for row in found):.0f}",
         f"{fmean(row['after']['forget'] for row in found):.3f}", f"{fmean(row['after']['covered'] for row in found):.3f}",
         *(_spread([recovered(row, name) for row in found]) for name in attacks),
         f"{fmean(row['moved_codes'] for row in found):.3f}"]
        for (objective, rate, guard, variant), found in groups.items()
    ]  # fmt: skip
    columns = [
        "objective",
        "rate",
        "guard",
        "rule",
        "seeds",
        "steps",
        "forget",
        "covered",
        *attacks,
        "4-bit codes moved",
    ]
    compared = []
    for (objective, rate, guard, variant), found in groups.items():
        base = groups.get((objective, rate, guard, "sum"))
        if variant == "sum" or base is None:
            continue
        cells_of = []
        for name in attacks:
            left, right = ({row["cell"]["seed"]: recovered(row, name) for row in side} for side in (found, base))
            one = paired_difference(left, right)
            low_high = "" if one is None or one.low is None else f" ({one.low:+.3f} to {one.high:+.3f})"
            cells_of.append("" if one is None else f"{one.mean:+.3f}{low_high}")
        compared.append([objective, f"{rate:g}", guard, variant, *cells_of])
    note = f"{len(rows) - len(reached)} of {len(rows)} runs missed the target and are left out."
    return [
        Table("Share of the lost forget accuracy that comes back", columns, shown, note),
        Table("Difference from plain addition, with the 95 % interval", [*columns[:4], *attacks], compared),
    ]  # fmt: skip


def _spread(values: Sequence[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def main() -> None:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--seeds", default="200,201,202,203,204")
    parser.add_argument("--objectives", default="ga")
    parser.add_argument("--rates", default="3e-4")
    parser.add_argument("--guards", default=",".join(GUARDS))
    parser.add_argument("--max-steps", type=int, default=Sizes().max_steps)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = Sizes(max_steps=given.max_steps)
    rows = []
    todo = cells(
        given.objectives.split(","),
        [float(one) for one in given.rates.split(",")],
        [int(one) for one in given.seeds.split(",")],
        given.guards.split(","),
    )
    console = Console(stderr=True)
    for cell in track(todo, "attacks", console=console):
        rows.append(attacked(cell, FactsTestbed(facts_config(cell.seed), sizes), sizes))
        if given.json:
            write_json(given.json, {"sizes": asdict(sizes), "rows": rows}, indent=1)
    for table in tables(rows, sizes.target):
        terminal.show(table, Console(), words=4)
        print(markdown.render([table], heading="### {}"))


if __name__ == "__main__":
    main()
