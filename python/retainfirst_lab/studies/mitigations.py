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

Facts, objective, target and attacks are those of :mod:`~retainfirst_lab.studies.attacks`; gradient ascent, without the guard.

    python -m retainfirst_lab.studies.mitigations [--seeds 200,201] [--rate 1e-4] [--max-steps 400] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.optim import Optimizer

from retainfirst.data import collate
from retainfirst.errors import require
from retainfirst.files import write_json
from retainfirst.objectives import nll
from retainfirst_lab.report import Table, markdown, terminal
from retainfirst_lab.reproduce.design import Sizes
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed, facts_config
from retainfirst_lab.reproduce.guard_design import GuardCell
from retainfirst_lab.reproduce.statistics import mean_and_spread, paired_difference
from retainfirst_lab.studies.attacks import Row, Unlearn, attacked, recovered, unlearn

__all__ = ["MITIGATIONS", "salient", "tables"]

RULES = ("sum", "sago")

ATTACKS = ("4 bits", "4 bits, groups", "relearning")

_LATE, _FASTER = 0.65, 4.0
_RANK, _ADAPTER_RATE = 8, 10.0


def _larger_last_steps(model: Any, cell: GuardCell, testbed: FactsTestbed, sizes: Sizes) -> int:
    def look(optimizer: Optimizer, accuracy: float) -> None:
        if accuracy <= _LATE:
            optimizer.param_groups[0]["lr"] = _FASTER * cell.learning_rate

    return unlearn(model, cell, testbed, sizes, look)


def _adapters(model: Any, cell: GuardCell, testbed: FactsTestbed, sizes: Sizes) -> int:
    peft = require("peft", "hf")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear")
        )
    steps = unlearn(model, replace(cell, learning_rate=_ADAPTER_RATE * cell.learning_rate), testbed, sizes)
    adapted.merge_and_unload()
    model.requires_grad_(True)
    return steps


def _salient_tensors(model: Any, cell: GuardCell, testbed: FactsTestbed, sizes: Sizes) -> int:
    kept = salient(model, testbed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept)
    steps = unlearn(model, cell, testbed, sizes)
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
    "none": unlearn,
    "larger last steps": _larger_last_steps,
    "adapters": _adapters,
    "salient tensors": _salient_tensors,
}
"""By name, how to unlearn; all stop at the same forget accuracy."""


def tables(rows: Sequence[Row], target: float) -> list[Table]:
    """Return a table of what came back, and one of the differences from the same rule without a mitigation, paired by seed."""
    reached = [row for row in rows if row["after"]["forget"] <= target]
    arms: dict[tuple[str, str], dict[int, Row]] = {}
    for row in reached:
        arms.setdefault((row["cell"]["variant"], row["mitigation"]), {})[row["cell"]["seed"]] = row
    shares = [
        [rule, name, str(len(seeds)), f"{fmean(row['steps'] for row in seeds.values()):.0f}",
         f"{fmean(row['after']['forget'] for row in seeds.values()):.3f}",
         f"{fmean(row['after']['covered'] for row in seeds.values()):.3f}",
         *(_spread([recovered(row, attack) for row in seeds.values()]) for attack in ATTACKS),
         f"{fmean(row['moved_codes'] for row in seeds.values()):.3f}"]
        for (rule, name), seeds in arms.items()
    ]  # fmt: skip
    differences = [
        [rule, name, *(_difference(seeds, arms[rule, "none"], attack) for attack in ATTACKS)]
        for (rule, name), seeds in arms.items()
        if name != "none" and (rule, "none") in arms
    ]
    columns = ["rule", "mitigation", "seeds", "steps", "forget", "covered", *ATTACKS, "4-bit codes moved"]
    note = f"{len(rows) - len(reached)} of {len(rows)} runs missed the target and are left out."
    return [
        Table("Share of the lost forget accuracy that comes back", columns, shares, note),
        Table("Difference that a mitigation makes, with the 95 % interval", [*columns[:2], *ATTACKS], differences),
    ]


def _spread(values: Sequence[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def _difference(arm: Mapping[int, Row], base: Mapping[int, Row], attack: str) -> str:
    found = paired_difference(*({seed: recovered(row, attack) for seed, row in side.items()} for side in (arm, base)))
    if found is None:
        return ""
    return f"{found.mean:+.3f}" + ("" if found.low is None else f" ({found.low:+.3f} to {found.high:+.3f})")


def main() -> None:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--seeds", default="200,201,202,203,204")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--max-steps", type=int, default=400)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = Sizes(max_steps=given.max_steps)
    todo = [
        (GuardCell("facts", "ga", rule, 4.0, given.rate, int(seed), "adamw", "off"), name)
        for seed in given.seeds.split(",")
        for rule in RULES
        for name in MITIGATIONS
    ]
    rows = []
    for cell, name in track(todo, "mitigations", console=Console(stderr=True)):
        testbed = FactsTestbed(facts_config(cell.seed), sizes)
        rows.append(attacked(cell, testbed, sizes, MITIGATIONS[name]) | {"mitigation": name})
        if given.json:
            write_json(given.json, {"sizes": asdict(sizes), "rows": rows}, indent=1)
    for table in tables(rows, sizes.target):
        terminal.show(table, Console(), words=3)
        print(markdown.render([table], heading="### {}"))


if __name__ == "__main__":
    main()
