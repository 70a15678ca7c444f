"""Do the rules differ on a real model? SmolLM2-135M, TOFU's authors, every row measured.

The tier ``smollm2`` of the reproduction asks a few multiple-choice questions, and one answer of eight is too coarse to order the
rules. This study measures the probability of every row's answer, which changes with every step, and pairs the rules by author.

The model is taught 16 of TOFU's authors once. Each seed draws 3 of them to forget, 6 for the retain batches (covered), and leaves
7 out of every batch (held out). A run ends when the forget rows are as probable as they were before the teaching: the target. All
rules have the same rate and weights (AdamW, 1e-4, gamma / alpha = 4), so that they can also be compared after equal numbers of
steps. SimNPO has the paper's beta on WMDP Bio, 0.02.

Claims, stated before the first run on a report seed:

- E1: at equal forgetting SAGO retains more of the covered rows than plain addition, with each objective.
- E2: the same for held-out rows.
- E3: SAGO retains more of the covered rows than PCGrad, with each objective.
- E4: by what the model says (ROUGE-L recall of greedy answers) the sign of each difference is that of the probabilities.
- E5: with the guard on both, SAGO's lead over PCGrad on covered rows shrinks (NPO).
- E6: 4-bit quantisation brings back no more with SAGO than with plain addition, nor does relearning.

A difference is the mean over authors and seeds of (rule - other); its 95 % interval resamples the authors within each seed. A
claim holds for an objective if the interval lies on its side of 0, fails if it lies on the other, and is undecided otherwise.

    python -m retainfirst_lab.studies.smollm2 --output FOLDER [--model SMOLLM2] [--data-dir TOFU] [--seeds 200 201 202]
        [--device cuda]
        [--write PAGE]

Finished runs are kept in FOLDER; the same command goes on after an interruption. ``--seeds 0`` is the development seed: its
spread says how many authors a difference of 0.05 needs (the last column of the differences).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from retainfirst_lab.bench import machine
from retainfirst_lab.bench.tables import conditions
from retainfirst_lab.report import Table, markdown
from retainfirst_lab.report.page import rewrite
from retainfirst_lab.reproduce.attack_design import QUANTISERS
from retainfirst_lab.reproduce.design import MAIN, OBJECTIVES
from retainfirst_lab.reproduce.guard_design import GuardCell
from retainfirst_lab.reproduce.store import Store
from retainfirst_lab.studies.smollm2_runs import SETS, Authors, AuthorSizes, identity, run

__all__ = ["Contrast", "at_target", "by_author", "cells", "contrast", "tables"]

GAMMA, RATE = 4.0, 1e-4

GUARDED = "npo"
"""The objective that is also run with the guard."""

RESAMPLES = 10_000

WORTH_SEEING = 0.05
"""The difference whose detection the numbers of authors are for."""

Result = Mapping[str, Any]
Results = Mapping[GuardCell, Result]
Arm = tuple[str, str, str]


def cells(seeds: Sequence[int]) -> list[GuardCell]:
    """Return the runs: nine without the guard for each seed, then three with it."""
    arms = [(objective, "off") for objective in OBJECTIVES] + [(GUARDED, "enforce")]
    return [
        GuardCell("smollm2", objective, rule.label, GAMMA, RATE, seed, "adamw", guard)
        for seed in seeds
        for objective, guard in arms
        for rule in MAIN
    ]


def at_target(found: Result, name: str) -> list[float]:
    """Return the probability of each row of a set at the target, interpolated between the states above and below it."""
    above, below = found["states"]["above"], found["states"]["below"]
    high, low = fmean(above["forget"]), fmean(below["forget"])
    share = (high - found["target"]) / (high - low)
    return [one + share * (other - one) for one, other in zip(above[name], below[name], strict=True)]


def by_author(found: Result, name: str, values: Sequence[float]) -> dict[int, float]:
    """Return the mean of the rows of each author."""
    authors = found["authors"][name]
    size = len(values) // len(authors)
    return {author: fmean(values[i * size : (i + 1) * size]) for i, author in enumerate(authors)}


@dataclass(frozen=True)
class Contrast:
    """A paired difference over the authors of all seeds.

    Attributes:
        mean: The mean of the differences.
        low: Lower end of its 95 % interval.
        high: Its upper end.
        authors: The number of authors, over all seeds.
        needed: Authors with which a difference of 0.05 is seen with a probability of 0.8; None with fewer than two.
    """

    mean: float
    low: float
    high: float
    authors: int
    needed: int | None

    def cell(self) -> str:
        """Return the difference for a table; in brackets if the interval contains 0."""
        shown = f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        return f"({shown})" if self.low <= 0 <= self.high else shown


def contrast(differences: Mapping[int, Mapping[int, float]]) -> Contrast:
    """Return the mean difference, with the interval that resamples the authors within each seed.

    Args:
        differences: By seed and author.
    """
    draw = np.random.default_rng(0)
    seeds = [np.array(list(one.values())) for one in differences.values()]
    resampled = [draw.choice(one, (RESAMPLES, len(one))).sum(axis=1) for one in seeds]
    count = sum(map(len, seeds))
    low, high = np.quantile(np.sum(resampled, axis=0) / count, [0.025, 0.975])
    values = [float(value) for one in seeds for value in one]
    # The usual formula: 1.96 and 0.84 are the normal quantiles of a two-sided 5 % test and of a power of 80 %.
    needed = math.ceil((2.8 * stdev(values) / WORTH_SEEING) ** 2) if count > 1 else None
    return Contrast(fmean(values), float(low), float(high), count, needed)


def compared(results: Results, arm: Arm, other: Arm, value: Callable[[Result], Mapping[int, float]]) -> Contrast | None:
    """Return ``arm - other`` over the seeds in which both reached the target; None if there is none."""
    sides = [
        {cell.seed: value(found) for cell, found in results.items() if _arm(cell) == wanted and found["attacks"]}
        for wanted in (arm, other)
    ]
    both = sides[0].keys() & sides[1].keys()
    differences = {
        seed: {author: left - sides[1][seed][author] for author, left in sides[0][seed].items()}
        for seed in sorted(both)
    }
    return contrast(differences) if differences else None


def retained(name: str) -> Callable[[Result], Mapping[int, float]]:
    """Return the function that gives a set's probabilities at the target, by author."""
    return lambda found: by_author(found, name, at_target(found, name))


def said(name: str) -> Callable[[Result], Mapping[int, float]]:
    """Return the function that gives a set's ROUGE-L recall at the first state below the target, by author."""
    return lambda found: by_author(found, name, found["states"]["below"]["rouge"][name])


def after_equal_steps(name: str) -> Callable[[Result], Mapping[int, float]]:
    """Return the function that gives a set's probabilities after equal numbers of steps, by author."""
    return lambda found: by_author(found, name, found["states"]["equal_steps"][name])


def back(attack: str) -> Callable[[Result], Mapping[int, float]]:
    """Return the function that gives the forget probability which a quantiser brings back, by author."""

    def gained(found: Result) -> Mapping[int, float]:
        attacked = found["attacks"][attack]["forget"]["probability"]
        after = found["states"]["below"]["forget"]
        return by_author(found, "forget", [one - other for one, other in zip(attacked, after, strict=True)])

    return gained


def relearned_back(found: Result) -> Mapping[int, float]:
    """Return the probability that relearning brings back, by row that it did not train on."""
    attack = found["attacks"]["relearning"]
    gains = zip(attack["rows"], attack["forget"]["probability"], attack["after"]["probability"], strict=True)
    return {row: one - other for row, one, other in gains}


MEASURES = {
    "covered": retained("covered"),
    "held out": retained("held_out"),
    "covered, said": said("covered"),
    "held out, said": said("held_out"),
    "covered, equal steps": after_equal_steps("covered"),
    "held out, equal steps": after_equal_steps("held_out"),
}

ATTACKS = {**{name: back(name) for name in QUANTISERS}, "relearning": relearned_back}


def tables(results: Results) -> list[Table]:
    """Return the tables: what is retained, the differences between rules, and what comes back."""
    return [_means(results), _differences(results), _attacked(results)]


def _arm(cell: GuardCell) -> Arm:
    return cell.objective, cell.variant, cell.guard


def _arms(results: Results) -> list[Arm]:
    return list(dict.fromkeys(map(_arm, results)))


def _mine(results: Results, arm: Arm) -> list[Result]:
    return [found for cell, found in results.items() if _arm(cell) == arm]


def _means(results: Results) -> Table:
    rows = []
    for arm in _arms(results):
        mine = _mine(results, arm)
        reached = [found for found in mine if found["attacks"]]
        steps = [next(p["step"] for p in one["path"] if p["forget"] <= one["target"]) for one in reached]
        opposing = [p["step_opposes_retain"] for one in mine for p in one["path"][1:]]
        kept = [
            f"{fmean(fmean(value(one).values()) for one in reached):.3f}" if reached else "-"
            for value in MEASURES.values()
        ]
        forgot = f"{fmean(fmean(one['states']['equal_steps']['forget']) for one in mine):.3f}"
        taken = f"{fmean(steps):.1f}" if steps else "-"
        counts = [f"{len(reached)}/{len(mine)}", taken, f"{fmean(opposing):.0%}"]
        rows.append([arm[0], f"`{arm[1]}`", arm[2], *counts, *kept[:4], forgot, *kept[4:]])
    before = ", ".join(
        f"{name.replace('_', ' ')} {fmean(fmean(one['states']['before'][name]) for one in results.values()):.3f}"
        for name in SETS
    )
    names = list(MEASURES)
    counted = ["forgot", "steps", "steps that oppose retention"]
    return Table(
        "What is retained where the forget rows are as probable as before the teaching",
        ["objective", "rule", "guard", *counted, *names[:4], "forget, equal steps", *names[4:]],
        rows,
        f"Mean probability of the answers, over authors and the seeds {_seeds(results)}; taught model: {before}; target"
        f" {fmean(one['target'] for one in results.values()):.3f}. Said: ROUGE-L recall of the greedy answers, at the first state"
        " below the target. Equal steps: after 6 steps, whatever is forgotten.",
    )


def _differences(results: Results) -> Table:
    rows = []
    for objective, guard, words, found in _contrasts(results, MEASURES):
        first = next(one for one in found if one is not None)
        counts = [f"{first.authors}", "-" if first.needed is None else f"{first.needed}"]
        rows.append([objective, guard, words, *map(_cell, found), *counts])
    return Table(
        "Differences in what is retained",
        ["objective", "guard", "difference", *MEASURES, "authors", f"needed for {WORTH_SEEING}"],
        rows,
        f"{_INTERVAL} The last two columns are those of the covered rows.{_shrinks(results)}",
    )


def _attacked(results: Results) -> Table:
    rows = []
    for arm in _arms(results):
        reached = [one for one in _mine(results, arm) if one["attacks"]]
        if reached:
            shown = [f"{fmean(fmean(value(one).values()) for one in reached):+.3f}" for value in ATTACKS.values()]
            rows.append([arm[0], arm[2], f"`{arm[1]}`", *shown])
    for objective, guard, words, found in _contrasts(results, ATTACKS):
        rows.append([objective, guard, words, *map(_cell, found)])
    return Table(
        "What comes back: the forget probability that an attack brings back",
        ["objective", "guard", "rule, or difference", *ATTACKS],
        rows,
        f"{_INTERVAL} Relearning trains on half of the forget rows; what comes back is that of the others.",
    )


def _shrinks(results: Results) -> str:
    """Return claim E5 in a sentence; nothing while a run of it is missing."""
    value = MEASURES["covered"]
    runs = {
        (*_arm(cell)[1:], cell.seed): value(found)
        for cell, found in results.items()
        if cell.objective == GUARDED and found["attacks"]
    }
    wanted = [(rule, guard) for guard in ("off", "enforce") for rule in ("sago", "pcgrad")]
    seeds = [seed for seed in sorted({cell.seed for cell in results}) if all((*arm, seed) in runs for arm in wanted)]
    if not seeds:
        return ""
    differences = {}
    for seed in seeds:
        ours, theirs, ours_guarded, theirs_guarded = (runs[*arm, seed] for arm in wanted)
        differences[seed] = {
            author: ours[author] - theirs[author] - (ours_guarded[author] - theirs_guarded[author]) for author in ours
        }
    return f" With the guard SAGO's lead over PCGrad on covered rows ({GUARDED}) shrinks by {contrast(differences).cell()}."


_INTERVAL = "Mean with its 95 % interval, which resamples the authors within each seed; in brackets if it contains 0."


def _contrasts(
    results: Results, measures: Mapping[str, Callable[[Result], Mapping[int, float]]]
) -> Iterator[tuple[str, str, str, list[Contrast | None]]]:
    """Yield pairs of arms with their differences, where both reached the target: rules at one guard, then with and without it."""
    arms = _arms(results)
    pairs = [
        ((objective, left, guard), (objective, right, guard), guard, f"{left} - {right}")
        for objective, guard in dict.fromkeys((arm[0], arm[2]) for arm in arms)
        for left, right in (("pcgrad", "sum"), ("sago", "sum"), ("sago", "pcgrad"))
    ]
    guarded = [arm for arm in arms if arm[2] == "enforce"]
    pairs += [(arm, (*arm[:2], "off"), "enforce - off", f"`{arm[1]}`") for arm in guarded]
    pairs += [(arm, (arm[0], "sago", "off"), "enforce - off", "sum - sago") for arm in guarded if arm[1] == "sum"]
    for left, right, guard, words in pairs:
        found = [compared(results, left, right, value) for value in measures.values()]
        if any(found):
            yield left[0], guard, words, found


def _cell(one: Contrast | None) -> str:
    return "-" if one is None else one.cell()


def _seeds(results: Results) -> str:
    return ", ".join(map(str, sorted({cell.seed for cell in results})))


def main() -> None:
    """Run what is missing, print the tables, and write them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--data-dir", type=Path, help="the folder of TOFU's files; without it, the hub")
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201, 202])
    parser.add_argument("--device", choices=machine.DEVICES, default="cpu")
    parser.add_argument("--write", type=Path, help="the page to insert the tables into")
    parser.add_argument("--no-runs", action="store_true", help="only read what is finished")
    for field in fields(AuthorSizes):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    given = parser.parse_args()
    machine.check_device(given.device)
    sizes = AuthorSizes(**{field.name: getattr(given, field.name) for field in fields(AuthorSizes)})
    store = Store(given.output, identity(given.model, sizes))
    planned = cells(given.seeds)
    if not given.no_runs:
        bed = Authors(given.output / "authors", given.model, given.data_dir, sizes, given.device)
        missing = [cell for cell in planned if store.read(cell) is None]
        for cell in track(missing, "SmolLM2", console=Console(stderr=True)):
            store.write(cell, run(cell, bed))
    results = {cell: found for cell in planned if (found := store.read(cell)) is not None}
    if not results:
        print("No run is finished.")
        return
    report = {**machine.describe(given.device), "threads": torch.get_num_threads()}
    shown = f"{len(results)} of {len(planned)} runs.\n\n{markdown.render(tables(results), '**{}**')}\n\n{conditions(report)}"
    print(shown)
    if given.write:
        rewrite(given.write, "smollm2 authors", shown)


if __name__ == "__main__":
    main()
