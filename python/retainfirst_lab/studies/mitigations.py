"""What helps against relearning and quantisation? Three mitigations, each against the same run without it.

- larger last steps: four times the learning rate once the forget accuracy is at most 0.65, half of the way to 0.30.
- adapters: LoRA of rank 8 on all linear layers at ten times the rate, merged before the attacks.
- salient tensors: only the half of the weight tensors with the largest forget gradient (root mean square over the forget set,
  before the first step) are trained. This is the module-level saliency of Zhang et al. (2024, arXiv 2410.16454).

Claims, stated on 29 November 2026 before the first run on the report seeds:

- M1: each mitigation lowers the share of the lost forget accuracy that relearning brings back.
- M2: each mitigation lowers the share that 4-bit quantisation (round to nearest, one scale a channel) brings back.

A claim holds for a mitigation and a rule if the 95 % bootstrap interval of the paired difference over seeds, with the mitigation
minus without, lies below 0. It is contradicted if the interval lies above 0.

Facts, objective, target and attacks are those of the reproduction's part on attacks; gradient ascent, without the guard.

    python -m retainfirst_lab.studies.mitigations --output FOLDER [--seeds 200,201] [--rate 1e-4] [--max-steps 400] [--jobs 2]

Finished runs are kept in FOLDER; the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from torch.optim import Optimizer

from retainfirst.data import collate
from retainfirst.errors import require
from retainfirst.objectives import nll
from retainfirst.progress import Progress
from retainfirst_lab.report import Table, markdown, terminal
from retainfirst_lab.reproduce import FULL
from retainfirst_lab.reproduce.attack_design import AttackCell, forget_until_target
from retainfirst_lab.reproduce.attack_runs import recovered
from retainfirst_lab.reproduce.design import Sizes
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed
from retainfirst_lab.reproduce.statistics import mean_and_spread, paired_difference
from retainfirst_lab.reproduce.store import Store
from retainfirst_lab.reproduce.workers import finished

__all__ = ["MITIGATIONS", "MitigatedCell", "cells", "salient", "tables"]

RULES = ("sum", "sago")

ATTACKS = ("4 bits", "4 bits, groups", "relearning")

Row = Mapping[str, Any]

Unlearn = Callable[[Any, AttackCell, FactsTestbed, Sizes], int]

_LATE, _FASTER = 0.65, 4.0
_RANK, _ADAPTER_RATE = 8, 10.0


def _larger_last_steps(model: Any, cell: AttackCell, testbed: FactsTestbed, sizes: Sizes) -> int:
    def look(optimizer: Optimizer, accuracy: float) -> None:
        if accuracy <= _LATE:
            optimizer.param_groups[0]["lr"] = _FASTER * cell.learning_rate

    return forget_until_target(model, cell, testbed, sizes, look)


def _adapters(model: Any, cell: AttackCell, testbed: FactsTestbed, sizes: Sizes) -> int:
    peft = require("peft", "hf")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear")
        )
    steps = forget_until_target(model, replace(cell, learning_rate=_ADAPTER_RATE * cell.learning_rate), testbed, sizes)
    adapted.merge_and_unload()
    model.requires_grad_(True)
    return steps


def _salient_tensors(model: Any, cell: AttackCell, testbed: FactsTestbed, sizes: Sizes) -> int:
    kept = salient(model, testbed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept)
    steps = forget_until_target(model, cell, testbed, sizes)
    model.requires_grad_(True)
    return steps


def salient(model: Any, testbed: FactsTestbed) -> set[str]:
    """Return the names of the half of the tensors whose forget gradient has the largest root mean square.

    Args:
        model: The target model; its gradients are cleared.
        testbed: Its facts.
    """
    rows = [testbed.forget[i] for i in range(len(testbed.forget))]
    nll(model, collate(rows, testbed.pad_token_id)).backward()  # type: ignore[no-untyped-call]
    sizes = {name: float(one.grad.square().mean()) for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return set(sorted(sizes, key=lambda name: -sizes[name])[: len(sizes) // 2])


MITIGATIONS: Mapping[str, Unlearn] = {
    "none": forget_until_target,
    "larger last steps": _larger_last_steps,
    "adapters": _adapters,
    "salient tensors": _salient_tensors,
}
"""By name, how to unlearn; all stop at the same forget accuracy."""


@dataclass(frozen=True)
class MitigatedCell(AttackCell):
    """One unlearning run with a mitigation.

    Attributes:
        mitigation: One of :data:`MITIGATIONS`.
    """

    mitigation: str

    @property
    def id(self) -> str:
        """A unique name, for files."""
        return f"{super().id}-{self.mitigation.replace(' ', '_')}"

    def unlearn(self, model: Any, testbed: FactsTestbed, sizes: Sizes) -> int:
        """Unlearn in place with the mitigation, and return the number of steps."""
        return MITIGATIONS[self.mitigation](model, self, testbed, sizes)


def cells(seeds: Sequence[int], rate: float, max_steps: int) -> list[MitigatedCell]:
    """Return every rule with every mitigation. Seeds are the outermost loop."""
    return [
        MitigatedCell("facts", "ga", rule, 4.0, rate, seed, "adamw", "off", max_steps, name)
        for seed in seeds
        for rule in RULES
        for name in MITIGATIONS
    ]


def tables(results: Mapping[MitigatedCell, Row], target: float) -> list[Table]:
    """Return a table of what came back, and one of the differences from the same rule without a mitigation, paired by seed."""
    reached = {cell: row for cell, row in results.items() if row["after"]["forget"] <= target}
    arms: dict[tuple[str, str], dict[int, Row]] = {}
    for cell, row in reached.items():
        arms.setdefault((cell.variant, cell.mitigation), {})[cell.seed] = row
    shares = [
        [rule, name, str(len(seeds)), f"{fmean(row['steps'] for row in seeds.values()):.0f}",
         f"{fmean(row['after']['forget'] for row in seeds.values()):.3f}",
         f"{fmean(row['after']['covered'] for row in seeds.values()):.3f}",
         *(_spread(list(_shares(seeds, attack).values())) for attack in ATTACKS),
         f"{fmean(row['moved_codes'] for row in seeds.values()):.3f}"]
        for (rule, name), seeds in arms.items()
    ]  # fmt: skip
    differences = [
        [rule, name, *(_difference(seeds, arms[rule, "none"], attack) for attack in ATTACKS)]
        for (rule, name), seeds in arms.items()
        if name != "none" and (rule, "none") in arms
    ]
    columns = ["rule", "mitigation", "seeds", "steps", "forget", "covered", *ATTACKS, "4-bit codes moved"]
    note = f"{len(results) - len(reached)} of {len(results)} runs missed the target and are left out."
    return [
        Table("Share of the lost forget accuracy that comes back", columns, shares, note),
        Table("Difference that a mitigation makes, with the 95 % interval", [*columns[:2], *ATTACKS], differences),
    ]


def _shares(arm: Mapping[int, Row], attack: str) -> dict[int, float]:
    return {seed: share for seed, row in arm.items() if (share := recovered(row, attack)) is not None}


def _spread(values: Sequence[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def _difference(arm: Mapping[int, Row], base: Mapping[int, Row], attack: str) -> str:
    found = paired_difference(_shares(arm, attack), _shares(base, attack))
    if found is None:
        return ""
    return f"{found.mean:+.3f}" + ("" if found.low is None else f" ({found.low:+.3f} to {found.high:+.3f})")


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", default="200,201,202,203,204")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--max-steps", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=FULL.jobs)
    given = parser.parse_args()
    planned = cells([int(seed) for seed in given.seeds.split(",")], given.rate, given.max_steps)
    store = Store(given.output, {**FULL.identity(), "tier": "mitigations"})
    with Progress() as bar:
        results = finished(FULL, store, planned, given.jobs, partial(bar.show, "mitigations"))
    for table in tables(results, FULL.sizes.target):
        terminal.show(table, Console(), words=3)
        print(markdown.render([table], heading="### {}"))


if __name__ == "__main__":
    main()
