"""Which combiner's promise survives which optimiser: proved, refuted, and the measured share of opposing steps.

A step opposes if ``<d, r> > 0``, where ``d`` is what the optimiser adds to the parameters and ``r`` is the retain gradient.

The verdict on a combiner and an optimiser comes from the theorem book. A promise is proved at every step or at the first one
(T10, for both forms of SAGO), or proved before rounding (T9, where all coordinates have one factor). Everything else has to be
refuted by a counterexample that :func:`retainfirst.testing.check_combiner` finds.

The share is measured on the built-in facts model: gradient ascent, gamma / alpha = 4, gradients clipped to norm 1, float32,
until the forget accuracy is at most 0.30. The dot product of the stored step is exact. Muon moves the matrices only. The rates
were set so that every optimiser's first steps have about one length.

    python -m retainfirst_lab.studies.optimisers [--steps 60] [--seeds 0] [--json FILE] [--write PAGE] [--write-short PAGE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from retainfirst import reference
from retainfirst.combiners import Combiner, make_combiner
from retainfirst.errors import RetainFirstError, StatementViolated, require
from retainfirst.files import write_json
from retainfirst.testing import check_combiner
from retainfirst.theory import statement
from retainfirst.theory.arrays import flatten_pair
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.tables import conditions
from retainfirst_lab.real_gradients import FORGET_WEIGHT, RealStep, facts_steps
from retainfirst_lab.report import Table, markdown
from retainfirst_lab.report.page import rewrite

__all__ = ["measure", "table"]

TARGET = 0.30
"""The forget accuracy at which a run ends."""

_PAIRS = 4000
"""With Muon only rare pairs refute SAGO at the first step."""

Report = dict[str, Any]


@dataclass(frozen=True)
class Optimiser:
    """An optimiser of the study.

    Attributes:
        make: Returns it, given the parameters.
        kept: For how many steps T10 holds with it: ``"every"``, ``"first"`` or ``"none"``.
        scaled: Likewise, for how many steps ``d`` is ``u`` times one number.
    """

    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    kept: str = "none"
    scaled: str = "none"


def _muon(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Muon([one for one in parameters if one.dim() == 2], lr=5e-3, weight_decay=0.0)


OPTIMISERS = {
    "SGD": Optimiser(partial(torch.optim.SGD, lr=0.2), "every", "every"),
    "SGD, momentum 0.9": Optimiser(partial(torch.optim.SGD, lr=0.05, momentum=0.9), "first", "first"),
    "RMSprop": Optimiser(partial(torch.optim.RMSprop, lr=1e-4), "every"),
    "Adagrad": Optimiser(partial(torch.optim.Adagrad, lr=1e-3), "every"),
    "Adafactor": Optimiser(partial(torch.optim.Adafactor, lr=1e-2), "every"),
    "Rprop": Optimiser(partial(torch.optim.Rprop, lr=1e-4), "every"),
    "Adam, beta1 = 0": Optimiser(partial(torch.optim.Adam, lr=3e-4, betas=(0.0, 0.999)), "every"),
    "Adam": Optimiser(partial(torch.optim.Adam, lr=3e-4), "first"),
    "AdamW, decay 0.01": Optimiser(partial(torch.optim.AdamW, lr=3e-4)),
    "Adamax": Optimiser(partial(torch.optim.Adamax, lr=3e-4), "first"),
    "NAdam": Optimiser(partial(torch.optim.NAdam, lr=3e-4), "first"),
    "Muon": Optimiser(_muon),
}

COMBINERS: dict[str, Callable[..., Combiner]] = {
    "sum": partial(make_combiner, "sum"),
    "ngdiff": partial(make_combiner, "ngdiff"),
    "blur": partial(make_combiner, "blur"),
    "gru": partial(make_combiner, "gru"),
    "orthogonal": partial(make_combiner, "orthogonal"),
    "pcgrad, tensor": partial(make_combiner, "pcgrad", scope="tensor"),
    "pcgrad, global": partial(make_combiner, "pcgrad", scope="global"),
    "sago": partial(make_combiner, "sago"),
    "sago_keep_retain": partial(make_combiner, "sago_keep_retain"),
}

SHORT = (
    ("SGD", "SGD, momentum 0.9", "RMSprop", "Adam, beta1 = 0", "AdamW, decay 0.01", "Muon"),
    ("sum", "pcgrad, global", "sago"),
)
"""The optimisers and the combiners of the short table."""

_UPDATE, _GUARDED = "none: the update itself", "any, with the guard"


def main() -> None:
    """Measure, print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="the most steps of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="draw the batches of each run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help="the page to insert the table into")
    parser.add_argument("--write-short", type=Path, help="the page to insert the short table into")
    arguments = parser.parse_args()
    report = measure(arguments.steps, arguments.seeds)
    if arguments.json:
        write_json(arguments.json, report)
    print(_whole(report))
    for page, shown in ((arguments.write, _whole(report)), (arguments.write_short, _short(report))):
        if page:
            rewrite(page, "optimisers", shown)


def measure(steps: int, seeds: Sequence[int]) -> Report:
    """Return the report.

    Args:
        steps: The most steps of each run.
        seeds: One run for each, of every combiner with every optimiser.
    """
    require("transformers", "hf").utils.logging.disable_progress_bar()  # its bars would interleave with ours
    cells = [(optimiser, combiner) for optimiser in OPTIMISERS for combiner in COMBINERS]
    return {
        **machine.describe("cpu"),
        "threads": torch.get_num_threads(),
        "steps": steps,
        "seeds": list(seeds),
        "gamma": FORGET_WEIGHT,
        "cells": [
            {"optimiser": optimiser, "combiner": combiner, **_verdicts(optimiser, combiner)}
            | _shares(optimiser, combiner, steps, seeds)
            for optimiser, combiner in track(cells, "optimisers")
        ],
    }


def _verdicts(optimiser: str, combiner: str) -> Report:
    return {when: _verdict(OPTIMISERS[optimiser], combiner, when) for when in ("first", "every")}


def _verdict(optimiser: Optimiser, combiner: str, when: str) -> str:
    """Return ``"proved"``, ``"exact arithmetic"`` or ``"refuted"``, for the first step or for every step."""
    made = COMBINERS[combiner]()
    t2 = statement("T2")
    for found, kept, names in (
        ("proved", optimiser.kept, statement("T10").promised_by),
        ("exact arithmetic", optimiser.scaled, (*t2.promised_by, *t2.exact_only)),
    ):
        if made.name in names and kept in ("every", when):
            return found
    any_pair = replace(statement("X3"), domains=())
    try:
        check_combiner(
            made, (any_pair,), "float64", _PAIRS, optimizer=optimiser.make, steps=1 if when == "first" else 3
        )
    except StatementViolated:
        return "refuted"
    raise RetainFirstError(f"{combiner}, {when} step: neither proved nor refuted by {_PAIRS} pairs; draw more")


def _shares(optimiser: str, combiner: str, steps: int, seeds: Sequence[int]) -> Report:
    """Run until the facts are forgotten, and count the steps and the updates that oppose retention."""
    counts = {"steps": 0, "opposing_steps": 0, "opposing_updates": 0}
    accuracies = []
    for seed in seeds:
        made = COMBINERS[combiner](gamma=FORGET_WEIGHT)
        for step in facts_steps(steps, seed, made, OPTIMISERS[optimiser].make):
            against = _opposes(step)
            if against is None:
                break  # the model has diverged
            counts["steps"] += 1
            for name, found in against.items():
                counts[name] += found
            if step.forget_accuracy <= TARGET:
                break
        accuracies.append(step.forget_accuracy)
    return {**counts, "forget_accuracy": accuracies}


def _opposes(step: RealStep) -> dict[str, bool] | None:
    """Return whether the step and the update oppose retention, without rounding; None if they are not finite."""
    retain = {name: pair[1] for name, pair in step.gradients.items()}
    try:
        (after, r), (before, _), (update, _) = (
            flatten_pair(numbers, retain) for numbers in (step.after, step.before, step.update)
        )
    except RetainFirstError:
        return None
    return {
        "opposing_steps": reference.dot(after, r) > reference.dot(before, r),
        "opposing_updates": reference.dot(update, r) < 0,
    }


def table(report: Mapping[str, Any], only: tuple[Sequence[str], Sequence[str]] | None = None) -> Table:
    """Return the table: one row for each optimiser, one column for each combiner.

    Args:
        report: The report of :func:`measure`.
        only: Optimisers and combiners; None: all.
    """
    optimisers, combiners = only or (tuple(OPTIMISERS), tuple(COMBINERS))
    cells = {(one["optimiser"], one["combiner"]): one for one in report["cells"]}
    rows = [[_UPDATE, *(_update_cell(name, report) for name in combiners)]]
    rows += [[optimiser, *(_cell(cells[optimiser, name]) for name in combiners)] for optimiser in optimisers]
    rows.append([_GUARDED, *("proved" for _ in combiners)])
    return Table(
        "Does the step work against retention?",
        ["optimiser", *(f"`{name}`" if "," not in name else name for name in combiners)],
        rows,
        "proved: never, also as stored. exact: never before rounding. first step: at the first step from a fresh state only;"
        " later steps are refuted. refuted: a counterexample was found. The number is the share of steps with `<d, r> > 0` in the"
        " runs (in the first row: of updates with `<u, r> < 0`).",
    )


def _cell(cell: Mapping[str, Any]) -> str:
    words = {"proved": "proved", "exact arithmetic": "exact", "refuted": "refuted"}
    first, every = words[cell["first"]], words[cell["every"]]
    shown = first if first == every else f"first step {first}"
    return f"{shown}; {_percent(cell['opposing_steps'], cell['steps'])}"


def _update_cell(combiner: str, report: Mapping[str, Any]) -> str:
    """The promise of the update, and its share over the runs with every optimiser."""
    cells = [one for one in report["cells"] if one["combiner"] == combiner]
    name, t2 = COMBINERS[combiner]().name, statement("T2")
    always = name in statement("X2").promised_by
    shown = "proved" if always else "exact" if name in (*t2.promised_by, *t2.exact_only) else "refuted"
    return f"{shown}; {_percent(sum(one['opposing_updates'] for one in cells), sum(one['steps'] for one in cells))}"


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %" if total else "no step"


def _whole(report: Mapping[str, Any]) -> str:
    return f"{markdown.render([table(report)], '**{}**')}\n\n{conditions(report)}"


def _short(report: Mapping[str, Any]) -> str:
    found = table(report, SHORT)
    return f"{markdown.lines(found.columns, found.rows)}\n\n{found.note}"


if __name__ == "__main__":
    main()
