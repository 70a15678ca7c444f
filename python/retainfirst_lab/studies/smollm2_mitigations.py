"""What helps against 4 bits and relearning on SmolLM2? Two mitigations of a run of NPO with SAGO, beside the same run without.

:mod:`~retainfirst_lab.studies.smollm2` found that 4-bit quantisation brings back more of the forget rows with SAGO than with
plain addition. Model, rows, seeds, target and attacks are those of that study; the runs end at the target.

- larger last steps: four times the rate once half of the way to the target is gone.
- adapters: LoRA of rank 8 on all linear layers at ten times the rate, merged before the attacks.

Claims, stated on 29 November 2026 before the first run:

- S1: each mitigation lowers what 4-bit quantisation with one scale a channel brings back.
- S2: each mitigation lowers what relearning brings back.

A claim holds for a mitigation if the 95 % interval of the difference from the run without it, which resamples the authors within
each seed, lies below 0; it is contradicted if the interval lies above 0, and undecided otherwise.

    python -m retainfirst_lab.studies.smollm2_mitigations --output FOLDER [--model SMOLLM2] [--data-dir TOFU]
        [--seeds 200 201 202 203 204] [--device cuda] [--write PAGE]

Finished runs are kept in FOLDER; the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from retainfirst.errors import require
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.tables import conditions
from retainfirst_lab.report import Table, markdown
from retainfirst_lab.report.page import rewrite
from retainfirst_lab.reproduce.guard_design import GuardCell
from retainfirst_lab.reproduce.store import Store
from retainfirst_lab.studies.smollm2 import ATTACKS, GAMMA, RATE, Contrast, Result, contrast, retained
from retainfirst_lab.studies.smollm2_runs import Authors, AuthorSizes, Change, identity, run

__all__ = ["MITIGATIONS", "MitigatedCell", "tables"]

LATE, FASTER = 0.5, 4.0
RANK, ADAPTER_RATE = 8, 10.0


@dataclass(frozen=True)
class MitigatedCell(GuardCell):
    """A run with a mitigation, a key of :data:`MITIGATIONS`."""

    mitigation: str

    @property
    def id(self) -> str:
        """A unique name, for files."""
        return f"{super().id}-{self.mitigation.replace(' ', '_')}"


class LargerLastSteps(Change):
    """Four times the rate once half of the way to the target is gone."""

    def look(self, optimizer: torch.optim.Optimizer, left: float) -> None:
        """Raise the rate; see above."""
        if left <= LATE:
            optimizer.param_groups[0]["lr"] = FASTER * RATE


class Adapters(Change):
    """LoRA on all linear layers, merged before the attacks."""

    def prepare(self, model: Any, seed: int) -> None:
        """Put adapters into the model; what else it has is frozen."""
        peft = require("peft", "hf")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))

    def finish(self, model: Any) -> None:
        """Add the adapters to the layers that they are in, and train all weights again."""
        for name, layer in list(model.named_modules()):
            if hasattr(layer, "get_base_layer"):
                layer.merge()
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, layer.get_base_layer())
        model.requires_grad_(True)


MITIGATIONS: Mapping[str, tuple[float, Change]] = {
    "none": (RATE, Change()),
    "larger last steps": (RATE, LargerLastSteps()),
    "adapters": (ADAPTER_RATE * RATE, Adapters()),
}
"""The rate of the first steps, and what is changed."""

Results = Mapping[MitigatedCell, Result]


def tables(results: Results) -> list[Table]:
    """Return what is retained and what comes back, and the differences that each mitigation makes."""
    arms: dict[str, dict[int, Result]] = {cell.mitigation: {} for cell in results}
    for cell, found in results.items():
        if found["attacks"]:
            arms[cell.mitigation][cell.seed] = found
    measures = {"covered": retained("covered"), "held out": retained("held_out"), **ATTACKS}
    means = []
    for name, runs in arms.items():
        values = [
            f"{fmean(len(one['path']) - 1 for one in runs.values()):.1f}",
            f"{fmean(fmean(one['states']['below']['forget']) for one in runs.values()):.3f}",
            *(f"{fmean(fmean(value(one).values()) for one in runs.values()):.3f}" for value in measures.values()),
        ] if runs else ["-"] * (2 + len(measures))  # fmt: skip
        means.append([name, f"{len(runs)}/{sum(cell.mitigation == name for cell in results)}", *values])
    differences = [
        [name, *(_difference(runs, arms["none"], value).cell() for value in measures.values())]
        for name, runs in arms.items()
        if name != "none" and runs.keys() & arms.get("none", {}).keys()
    ]
    return [
        Table(
            "NPO with SAGO, at the target",
            ["mitigation", "forgot", "steps", "forget, attacked", *measures],
            means,
            "Mean probability of the answers at the target, and what an attack brings back of the forget rows' probability."
            " Attacked is the first state below the target, whose forget probability is given.",
        ),
        Table(
            "Difference that a mitigation makes",
            ["mitigation", *measures],
            differences,
            "Mean with its 95 % interval, which resamples the authors within each seed; in brackets if it contains 0.",
        ),
    ]


def _difference(runs: Mapping[int, Result], base: Mapping[int, Result], value: Any) -> Contrast:
    differences = {}
    for seed in sorted(runs.keys() & base.keys()):
        ours, without = value(runs[seed]), value(base[seed])
        differences[seed] = {author: ours[author] - without[author] for author in ours}
    return contrast(differences)


def main() -> None:
    """Run what is missing, print the tables, and write them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--data-dir", type=Path, help="the folder of TOFU's files; without it, the hub")
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201, 202, 203, 204])
    parser.add_argument("--device", choices=machine.DEVICES, default="cpu")
    parser.add_argument("--write", type=Path, help="the page to insert the tables into")
    given = parser.parse_args()
    machine.check_device(given.device)
    sizes = AuthorSizes(equal_steps=0)  # the runs end at the target
    store = Store(given.output, identity(given.model, sizes))
    bed = Authors(given.output / "authors", given.model, given.data_dir, sizes, given.device)
    planned = [
        MitigatedCell("smollm2", "npo", "sago", GAMMA, rate, seed, "adamw", "off", name)
        for seed in given.seeds
        for name, (rate, _) in MITIGATIONS.items()
    ]
    missing = [cell for cell in planned if store.read(cell) is None]
    for cell in track(missing, "mitigations", console=Console(stderr=True)):
        store.write(cell, run(cell, bed, MITIGATIONS[cell.mitigation][1]))
    results = {cell: found for cell in planned if (found := store.read(cell)) is not None}
    report = {**machine.describe(given.device), "threads": torch.get_num_threads()}
    seeds = ", ".join(map(str, given.seeds))
    shown = f"Seeds {seeds}.\n\n{markdown.render(tables(results), '**{}**')}\n\n{conditions(report)}"
    print(shown)
    if given.write:
        rewrite(given.write, "smollm2 mitigations", shown)


if __name__ == "__main__":
    main()
