"""Where SAGO is tighter than PCGrad (closer in angle to the retain gradient) on real gradients of the facts model.

Every step of a run that unlearns the built-in facts (SAGO, gradient ascent, gamma = 4) gives a forget and a retain gradient.
Each pair is combined by SAGO, with and without keep_retain, and by PCGrad at several ratios l = gamma / alpha. The exact oracle
compares the cosines of the stored float32 updates, without rounding and without a tolerance. The run is the same for every l. A
case is either a step (the whole model, PCGrad with the scope global) or a parameter tensor of a step (PCGrad with the scope
tensor, each tensor one case). Cases in which forget and retain do not conflict, where PCGrad is plain addition, are counted
apart. A tensor with a zero gradient is left out and counted.

There are two figures. crossing.png has the exact cosines over l for the first step of the first seed in which the whole
gradients conflict. tightness.png has the crossing points of all steps, and the shares of cases in which SAGO is strictly
tighter.

    python -m retainfirst_lab.studies.tightness [--steps 50] [--seeds 0 1 2] [--figures docs/figures] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

import retainfirst as rf
from retainfirst import reference
from retainfirst.errors import require
from retainfirst.files import write_json
from retainfirst.theory import crossing_point
from retainfirst.theory.arrays import as_array, flatten_pair
from retainfirst.theory.sums import Angle, GradientPair, root
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.tables import conditions
from retainfirst_lab.bench.timing import spread
from retainfirst_lab.real_gradients import FORGET_WEIGHT, facts_gradients
from retainfirst_lab.report import Table, terminal
from retainfirst_lab.report.table import spread_cell
from retainfirst_lab.studies import tightness_figures

__all__ = ["measure", "shares_table"]

RATIOS = (0.25, 1.0, 4.0, 16.0)
CURVE: tuple[float, ...] = tuple(np.geomspace(1e-3, 1e3, 241).tolist())
CHECKED = (1e-2, 0.1, 1.0, 10.0, 100.0)  # and at the crossing point and T5's bound
SCOPES = {"model": "global", "tensor": "tensor"}
ORDERS = {1: "tighter", 0: "equal", -1: "looser"}
COMBINERS = ("sago", "sago_keep_retain", "pcgrad", "sum")

Array = NDArray[Any]
Report = dict[str, Any]
Judged = tuple[bool, float, str, str, bool, bool]
"""Conflict; l; the order of SAGO and of SAGO with keep_retain against PCGrad; whether T5's condition holds; whether T7 predicts
SAGO's order."""


def main() -> None:
    """Measure, print the table, draw the figures, and write the report if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="draw the batches of each run")
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"), help="folder of the figures")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = measure(arguments.steps, arguments.seeds)
    console = Console()
    terminal.show(shares_table(report), console, words=2)
    console.print(*_remarks(report), conditions(report), sep="\n", highlight=False, soft_wrap=True)
    arguments.figures.mkdir(parents=True, exist_ok=True)
    if report["crossing"]:
        tightness_figures.draw_crossing(report["crossing"], arguments.figures / "crossing.png")
    tightness_figures.draw_tightness(report, RATIOS, arguments.figures / "tightness.png")
    if arguments.json:
        write_json(arguments.json, report)


def measure(steps: int, seeds: Sequence[int]) -> Report:
    """Return the report.

    Args:
        steps: Optimiser steps of each run.
        seeds: One run for each.
    """
    require("transformers", "hf").utils.logging.disable_progress_bar()  # its bars would interleave with ours
    counts: Counter[tuple[Any, ...]] = Counter()
    left_out, rows, first, tensors, elements = 0, [], None, 0, 0
    for seed in seeds:
        runs = track(facts_gradients(steps, seed), f"seed {seed}", total=steps)
        for step, gradients in enumerate(runs, 1):
            everything = _whole(gradients)
            tensors, elements = len(gradients), len(everything[1])
            nonzero = [(as_array(f), as_array(r)) for f, r in gradients.values() if f.any() and r.any()]
            left_out += len(gradients) - len(nonzero)
            for unit, cases in (("model", [everything]), ("tensor", nonzero)):
                for f, r in cases:
                    counts.update((seed, unit, *judged) for judged in _judge(f, r))
            rows.append({"seed": seed, "step": step, **_describe(*everything)})
            if first is None and rows[-1]["conflict"]:
                first = seed, step, *everything
    products = [row["crossing_point"] * row["forget_over_retain"] for row in rows if row["conflict"]]
    return {
        **machine.describe("cpu"),
        "threads": torch.get_num_threads(),
        "steps_a_seed": steps,
        "seeds": list(seeds),
        "gamma_of_the_run": FORGET_WEIGHT,
        "elements": elements,
        "tensors_a_step": tensors,
        "tensors_left_out": left_out,
        "crossing_point_times_forget_over_retain": spread(products) if products else None,
        "shares": [_share(counts, seeds, *key) for key in itertools.product(SCOPES, (True, False), RATIOS)],
        "rows": rows,
        "crossing": _follow(*first) if first else None,
    }


def _whole(gradients: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Array, Array]:
    """Return the gradients of all parameters, each task's as one array."""
    forget, retain = zip(*gradients.values(), strict=True)
    return flatten_pair(forget, retain)


def _combined(f: Array, r: Array, combiner: str, ratio: float) -> Array:
    """Return the stored update. The arrays are one tensor, so one group of PCGrad."""
    return as_array(rf.combine(torch.from_numpy(f), torch.from_numpy(r), combiner, gamma=ratio))


def _judge(f: Array, r: Array) -> list[Judged]:
    """Compare both forms of SAGO with PCGrad at each ratio, and with the theorems' predictions."""
    sums = GradientPair(f, r).sums
    conflict = sums.dot < 0
    crossing = crossing_point(f, r) if conflict else 0.0
    found = []
    for ratio in RATIOS:
        pcgrad = _combined(f, r, "pcgrad", ratio)
        sago, keep_retain = (
            reference.compare_cosines(_combined(f, r, name, ratio), pcgrad, r) for name in ("sago", "sago_keep_retain")
        )
        promised = conflict and Fraction(ratio) * sums.p >= sums.b
        predicted = conflict and (sago > 0) == (ratio > crossing)
        found.append((conflict, ratio, ORDERS[sago], ORDERS[keep_retain], promised, predicted))
    return found


def _share(counts: Counter[tuple[Any, ...]], seeds: Sequence[int], unit: str, conflict: bool, ratio: float) -> Report:
    """Add up the cases of one kind."""
    cases = {key: count for key, count in counts.items() if key[1:4] == (unit, conflict, ratio)}

    def total(field: int, value: object, seed: int | None = None) -> int:
        return sum(n for key, n in cases.items() if key[field] == value and seed in (None, key[0]))

    row: Report = {
        "unit": unit, "pcgrad_scope": SCOPES[unit], "conflict": conflict, "l": ratio, "cases": sum(cases.values()),
    }  # fmt: skip
    for field, combiner in ((4, "sago"), (5, "sago_keep_retain")):
        by_seed = {seed: total(0, seed) for seed in seeds}
        shares = [total(field, "tighter", seed) / n for seed, n in by_seed.items() if n]
        row[combiner] = {
            **{order: total(field, order) for order in ORDERS.values()},
            "share_tighter": total(field, "tighter") / row["cases"] if row["cases"] else None,
            "share_tighter_by_seed": {"least": min(shares, default=None), "greatest": max(shares, default=None)},
        }
    if conflict:
        row |= {"promised_by_t5": total(6, True), "sago_as_t7_predicts": total(7, True)}
    return row


def _describe(f: Array, r: Array) -> Report:
    """Measure the whole gradients of one step."""
    sums = GradientPair(f, r).sums
    return {
        "conflict": sums.dot < 0,
        "cos_forget_retain": float(sums.dot) / root(sums.forget_square * sums.retain_square),
        "forget_over_retain": root(sums.forget_square / sums.retain_square),
        "crossing_point": crossing_point(f, r) if sums.dot < 0 else None,
        "t5_bound": float(sums.b / sums.p) if sums.p else None,
    }


def _follow(seed: int, step: int, f: Array, r: Array) -> Report:
    """Compute the exact cosines of one conflicting pair over l, and compare their order with that of the stored updates."""
    facts, sums = _describe(f, r), GradientPair(f, r).sums
    crossing = facts["crossing_point"]
    curve = [_exact(f, r, ratio) for ratio in track(CURVE, "cosines over l")]
    checked = sorted({*CHECKED, 0.99 * crossing, 1.01 * crossing, facts["t5_bound"]})
    return {
        "seed": seed,
        "step": step,
        **facts,
        "six_numbers": {name: float(getattr(sums, name)) for name in "abpqst"},
        "floor": min(root(sums.a / sums.retain_square), root(sums.p**2 / (sums.q * sums.retain_square))),
        "l": list(CURVE),
        "cosines": {name: [angles[name].cosine for angles in curve] for name in COMBINERS},
        "checks": [_check(f, r, ratio) for ratio in checked],
    }


def _exact(f: Array, r: Array, ratio: float) -> dict[str, Angle]:
    """Return the angle of each combiner's update before rounding."""
    pair = GradientPair(f, r, gamma=ratio)
    sums, weighted = pair.sums, pair.ratio * pair.sums.dot
    square = sums.retain_square + 2 * weighted + pair.ratio**2 * sums.forget_square
    angles = {name: pair.exact(name) for name in COMBINERS if name != "sum"}
    return {**angles, "sum": Angle(sums.retain_square + weighted, square, sums.retain_square)}


def _check(f: Array, r: Array, ratio: float) -> Report:
    """Return whether the oracle orders the stored updates like the exact cosines."""
    drawn = {name: angle.squared_cosine for name, angle in _exact(f, r, ratio).items()}
    stored = {name: _combined(f, r, name, ratio) for name in COMBINERS}
    other = [
        [a, b]
        for a, b in itertools.combinations(COMBINERS, 2)
        if reference.compare_cosines(stored[a], stored[b], r) != (drawn[a] > drawn[b]) - (drawn[a] < drawn[b])
    ]
    order = sorted(COMBINERS, key=lambda name: drawn[name], reverse=True)
    return {"l": ratio, "order": order, "ordered_otherwise_when_stored": other}


def shares_table(report: Mapping[str, Any]) -> Table:
    """Return the shares of cases in which SAGO is tighter."""
    rows = []
    for row in report["shares"]:
        if row["cases"]:
            ends = "-".join(f"{100 * share:.1f}" for share in row["sago"]["share_tighter_by_seed"].values())
            counts = {name: "/".join(str(row[name][order]) for order in ORDERS.values()) for name in COMBINERS[:2]}
            rows.append(
                [
                    row["unit"],
                    "yes" if row["conflict"] else "no",
                    f"{row['l']:g}",
                    f"{100 * row['sago']['share_tighter']:.1f} ({ends})",
                    counts["sago"],
                    str(row.get("promised_by_t5", "")),
                    counts["sago_keep_retain"],
                ]
            )
    return Table(
        f"SAGO compared with PCGrad; {len(report['seeds'])} runs of {report['steps_a_seed']} steps",
        ["cases", "conflict", "l", "SAGO, %", "SAGO, counts", "T5", "keep_retain, counts"],
        rows,
        "SAGO, %: share of cases in which SAGO is strictly tighter (least-greatest over seeds). Counts: tighter/equal/looser. T5:"
        " cases in which its condition holds.",
    )


def _remarks(report: Mapping[str, Any]) -> list[str]:
    conflicting = [row for row in report["shares"] if row["conflict"]]
    predicted, cases = (sum(row[key] for row in conflicting) for key in ("sago_as_t7_predicts", "cases"))
    found = [
        f"T7 predicts SAGO's order in {predicted} of {cases} cases with conflict.",
        f"Tensors left out because of a zero gradient: {report['tensors_left_out']}.",
    ]
    crossing = report["crossing"]
    if crossing:
        other = sum(bool(row["ordered_otherwise_when_stored"]) for row in crossing["checks"])
        found += [
            f"l* |f| / |r| of the whole model: median {spread_cell(report['crossing_point_times_forget_over_retain'])}.",
            f"Seed {crossing['seed']}, step {crossing['step']}: l* = {crossing['crossing_point']:.3f}, b/p ="
            f" {crossing['t5_bound']:.3f}, floor {crossing['floor']:.3f}. The stored updates are ordered otherwise at {other} of"
            f" {len(crossing['checks'])} weights.",
        ]
    return found


if __name__ == "__main__":
    main()
