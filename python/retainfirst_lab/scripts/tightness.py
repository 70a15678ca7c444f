"""Where SAGO is tighter than PCGrad, that is, closer in angle to the retain gradient: on real gradients of the small facts model.

Every step of a run that unlearns the built-in facts (SAGO, gradient ascent, gamma = 4) gives a forget and a retain gradient.
Each such pair is combined by SAGO, with and without keep_retain, and by PCGrad at several ratios l = gamma / alpha of the
weights, and the exact oracle orders the cosines of the stored float32 updates: no rounding in the judgement, and no tolerance.
The run itself is the same at every l. Cases are the steps (the whole model, PCGrad of the global scope) and the parameter
tensors of the steps (PCGrad of the scope "tensor", each tensor one case whatever its size). Where forget and retain do not
conflict, PCGrad is plain addition, so such cases are counted apart. A tensor with a gradient of zero is left out and counted.

Two figures are drawn: crossing.png, the exact cosines over l for the first step of the first seed in which the whole gradients
conflict, and tightness.png, the crossing points of all steps with the shares of cases in which SAGO is strictly tighter.

    python -m retainfirst_lab.scripts.tightness [--steps 50] [--seeds 0 1 2] [--figures docs/figures] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import __version__ as transformers_version
from transformers.utils import logging

import retainfirst as rf
from retainfirst import reference
from retainfirst.theory import crossing_point
from retainfirst.theory.arrays import as_array, flatten_pair
from retainfirst.theory.sums import Angle, GradientPair, root
from retainfirst_lab.real_gradients import FORGET_WEIGHT, facts_gradients

RATIOS = (0.25, 1.0, 4.0, 16.0)
CURVE = tuple(np.geomspace(1e-3, 1e3, 241).tolist())
CHECKED = (1e-2, 0.1, 1.0, 10.0, 100.0)  # and at the crossing point and T5's bound
SCOPES = {"model": "global", "tensor": "tensor"}
ORDERS = {1: "tighter", 0: "equal", -1: "looser"}

# Okabe and Ito's colours, which colour-blind readers tell apart; the lines differ in dashes as well.
BLUE, ORANGE, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#666666", "#B0B0B0"
ABOVE = {"frameon": False, "loc": "lower center", "bbox_to_anchor": (0.5, 1), "columnspacing": 1}
THIN = {"linewidth": 0.9, "linestyle": (0, (4, 3))}
STYLES = {
    "sago": ("SAGO", BLUE, "-"),
    "sago_keep_retain": ("SAGO, keep_retain", GREEN, (0, (6, 1.5))),
    "pcgrad": ("PCGrad (global scope)", ORANGE, "-"),
    "sum": ("plain addition", GREY, (0, (1.5, 1.5))),
}
RULES = tuple(STYLES)
MARKERS = ("o", "s", "^", "v", "P", "X", "*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="draw the batches of each run")
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"), help="folder that the figures go to")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = measure(arguments.steps, arguments.seeds)
    show(report)
    arguments.figures.mkdir(parents=True, exist_ok=True)
    if report["crossing"]:
        draw_crossing(report["crossing"], arguments.figures / "crossing.png")
    draw_tightness(report, arguments.figures / "tightness.png")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(steps: int, seeds: list[int]) -> dict:
    logging.disable_progress_bar()  # that of loading the weights, in the middle of ours
    counts, left_out, rows, first = Counter(), 0, [], None
    for seed in seeds:
        runs = track(facts_gradients(steps, seed), f"seed {seed}", total=steps)
        for step, gradients in enumerate(runs, 1):
            everything = whole(gradients)
            pairs = {"model": [everything], "tensor": []}
            for f, r in gradients.values():
                if f.any() and r.any():
                    pairs["tensor"].append((as_array(f), as_array(r)))
                else:
                    left_out += 1
            for unit, cases in pairs.items():
                for f, r in cases:
                    counts.update((seed, unit, *judged) for judged in judge(f, r))
            rows.append({"seed": seed, "step": step, **describe(*everything)})
            if first is None and rows[-1]["conflict"]:
                first = seed, step, *everything
    versions = {"retainfirst": rf.__version__, "torch": torch.__version__}
    products = [row["crossing_point"] * row["forget_over_retain"] for row in rows if row["conflict"]]
    statistic = {"median": statistics.median, "least": min, "greatest": max}
    spread = {name: of(products) for name, of in statistic.items()} if products else None
    return {
        "steps_a_seed": steps,
        "seeds": seeds,
        "gamma_of_the_run": FORGET_WEIGHT,
        "elements": len(everything[1]),
        "tensors_a_step": len(gradients),
        "tensors_left_out": left_out,
        "crossing_point_times_forget_over_retain": spread,
        "shares": [share(counts, seeds, *key) for key in itertools.product(SCOPES, (True, False), RATIOS)],
        "rows": rows,
        "crossing": follow(*first) if first else None,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": versions | {"transformers": transformers_version, "python": platform.python_version()},
    }


def whole(gradients: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Return forget and retain of all parameters, each as one array."""
    forget, retain = zip(*gradients.values(), strict=True)
    return flatten_pair(forget, retain)


def combined(f: np.ndarray, r: np.ndarray, rule: str, ratio: float) -> np.ndarray:
    """Return a stored update; arrays given as one tensor are one group to PCGrad."""
    return as_array(rf.combine(torch.from_numpy(f), torch.from_numpy(r), rule, gamma=ratio))


def judge(f: np.ndarray, r: np.ndarray) -> list[tuple]:
    """Say for each ratio how both forms of SAGO compare with PCGrad, and what the theorems foresee."""
    sums = GradientPair(f, r).sums
    conflict = sums.dot < 0
    crossing = crossing_point(f, r) if conflict else None
    found = []
    for ratio in RATIOS:
        pcgrad = combined(f, r, "pcgrad", ratio)
        orders = [
            reference.compare_cosines(combined(f, r, rule, ratio), pcgrad, r) for rule in ("sago", "sago_keep_retain")
        ]
        promised = conflict and Fraction(ratio) * sums.p >= sums.b
        # T7 foresees the order on both sides of the crossing point.
        as_foreseen = conflict and (orders[0] > 0) == (ratio > crossing)
        found.append((conflict, ratio, *(ORDERS[order] for order in orders), promised, as_foreseen))
    return found


def share(counts: Counter, seeds: list[int], unit: str, conflict: bool, ratio: float) -> dict:
    """Add up the cases of one kind."""
    cases = {key: count for key, count in counts.items() if key[1:4] == (unit, conflict, ratio)}

    def total(field: int, value: object, seed: int | None = None) -> int:
        return sum(n for key, n in cases.items() if key[field] == value and seed in (None, key[0]))

    row = {"unit": unit, "pcgrad_scope": SCOPES[unit], "conflict": conflict, "l": ratio, "cases": sum(cases.values())}
    for field, rule in ((4, "sago"), (5, "sago_keep_retain")):
        by_seed = {seed: total(0, seed) for seed in seeds}
        shares = [total(field, "tighter", seed) / n for seed, n in by_seed.items() if n]
        row[rule] = {
            **{order: total(field, order) for order in ORDERS.values()},
            "share_tighter": total(field, "tighter") / row["cases"] if row["cases"] else None,
            "share_tighter_by_seed": {"least": min(shares, default=None), "greatest": max(shares, default=None)},
        }
    if conflict:
        row |= {"promised_by_t5": total(6, True), "sago_as_t7_foresees": total(7, True)}
    return row


def describe(f: np.ndarray, r: np.ndarray) -> dict:
    """Measure the whole gradients of one step."""
    sums = GradientPair(f, r).sums
    return {
        "conflict": sums.dot < 0,
        "cos_forget_retain": float(sums.dot) / root(sums.forget_square * sums.retain_square),
        "forget_over_retain": root(sums.forget_square / sums.retain_square),
        "crossing_point": crossing_point(f, r) if sums.dot < 0 else None,
        "t5_bound": float(sums.b / sums.p) if sums.p else None,
    }


def follow(seed: int, step: int, f: np.ndarray, r: np.ndarray) -> dict:
    """Follow the exact cosines of one conflicting pair over l, and hold their order against the stored updates."""
    facts, sums = describe(f, r), GradientPair(f, r).sums
    crossing = facts["crossing_point"]
    curve = [exact(f, r, ratio) for ratio in track(CURVE, "cosines over l")]
    checked = sorted({*CHECKED, 0.99 * crossing, 1.01 * crossing, facts["t5_bound"]})
    return {
        "seed": seed,
        "step": step,
        **facts,
        "six_numbers": {name: float(getattr(sums, name)) for name in "abpqst"},
        "floor": min(root(sums.a / sums.retain_square), root(sums.p**2 / (sums.q * sums.retain_square))),
        "l": CURVE,
        "cosines": {rule: [angles[rule].cosine for angles in curve] for rule in RULES},
        "checks": [check(f, r, ratio) for ratio in checked],
    }


def exact(f: np.ndarray, r: np.ndarray, ratio: float) -> dict[str, Angle]:
    """Return what each rule gives before any rounding."""
    pair = GradientPair(f, r, gamma=ratio)
    sums, weighted = pair.sums, pair.ratio * pair.sums.dot
    square = sums.retain_square + 2 * weighted + pair.ratio**2 * sums.forget_square
    angles = {rule: pair.exact(rule) for rule in RULES if rule != "sum"}
    return {**angles, "sum": Angle(sums.retain_square + weighted, square, sums.retain_square)}


def check(f: np.ndarray, r: np.ndarray, ratio: float) -> dict:
    """Tell whether the oracle orders the stored updates as the exact cosines are ordered."""
    drawn = {rule: angle.squared_cosine for rule, angle in exact(f, r, ratio).items()}
    stored = {rule: combined(f, r, rule, ratio) for rule in RULES}
    other = [
        [a, b]
        for a, b in itertools.combinations(RULES, 2)
        if reference.compare_cosines(stored[a], stored[b], r) != (drawn[a] > drawn[b]) - (drawn[a] < drawn[b])
    ]
    return {"l": ratio, "order": sorted(RULES, key=drawn.get, reverse=True), "ordered_otherwise_when_stored": other}


def draw_crossing(crossing: dict, path: Path) -> None:
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots()
    point, bound, floor = crossing["crossing_point"], crossing["t5_bound"], crossing["floor"]
    for rule, (label, colour, dashes) in STYLES.items():
        axes.plot(crossing["l"], crossing["cosines"][rule], color=colour, linestyle=dashes, linewidth=2, label=label)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.axhline(floor, color=BLUE, **THIN)
    axes.text(1.2e-3, floor + 0.012, f"SAGO's floor (T8): {floor:.2f}", color=BLUE)
    axes.axvspan(point, CURVE[-1], color=BLUE, alpha=0.06, linewidth=0)
    axes.axvline(point, color="black", linewidth=0.9)
    foot = min(-0.1, *crossing["cosines"]["sum"])
    axes.text(point / 1.08, foot, f"l* = {point:.2f} (T7)", ha="right")
    axes.axvline(bound, color="black", **THIN)
    axes.text(bound * 1.08, foot, f"b/p = {bound:.2f} (T5)")
    for x, side, word in ((1.2e-3, "left", "looser"), (0.8 * CURVE[-1], "right", "tighter")):
        axes.text(x, 0.64, f"SAGO {word}\nthan PCGrad", color=BLUE, ha=side, va="center")
    title = (
        f"Whole gradients of step {crossing['step']} (seed {crossing['seed']}): |f| / |r| = "
        f"{crossing['forget_over_retain']:.2f}, cos(f, r) = {crossing['cos_forget_retain']:.2f}"
    )
    axes.set(xscale="log", xlim=(CURVE[0], CURVE[-1]), ylim=(foot - 0.02, 1.03), title=title.replace("-", "\u2212"))
    axes.set_xlabel("l = gamma / alpha: weight of the forget gradient beside that of the retain gradient")
    axes.set_ylabel("cosine of the update and the retain gradient")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.34))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def draw_tightness(report: dict, path: Path) -> None:
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    (steps, model), (lengths, tensors) = figure.subplots(2, 2, width_ratios=(1.3, 1))
    draw_points(report, steps, lengths)
    draw_shares(report, "model", model)
    draw_shares(report, "tensor", tensors)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def draw_points(report: dict, steps, lengths) -> None:
    """Draw the crossing points over the steps, and over the ratio of the gradients' lengths."""
    conflicting = [row for row in report["rows"] if row["conflict"]]
    for seed, marker in zip(report["seeds"], itertools.cycle(MARKERS)):
        own = [row for row in conflicting if row["seed"] == seed]
        points = [row["crossing_point"] for row in own]
        look = {"marker": marker, "s": 18, "color": BLUE, "alpha": 0.75, "linewidth": 0, "label": f"seed {seed}"}
        steps.scatter([row["step"] for row in own], points, **look)
        lengths.scatter([1 / row["forget_over_retain"] for row in own], points, **look)
    free = [row["step"] for row in report["rows"] if not row["conflict"]]
    foot = 0.6 * min([RATIOS[0], *(row["crossing_point"] for row in conflicting)])
    steps.scatter(free, [foot] * len(free), marker="x", s=22, color=GREY, linewidth=1.2, label="no conflict, no l*")
    ends = lengths.get_xlim()
    lengths.plot(ends, ends, color=GREY, label="l* = |r| / |f|", zorder=0)
    for ratio in RATIOS:
        steps.axhline(ratio, color="black", zorder=0, **THIN)
        run = "\n(the run)" if ratio == report["gamma_of_the_run"] else ""
        steps.text(1.01, ratio, f"l = {ratio:g}{run}", transform=steps.get_yaxis_transform(), va="center")
    steps.set(yscale="log", xlabel="step", ylabel="crossing point l*, whole model")
    steps.legend(**ABOVE, ncols=4, handletextpad=0.3)
    lengths.set(xscale="log", yscale="log", ylabel="crossing point l*, whole model")
    lengths.set_xlabel("|r| / |f|: the l at which both weighted gradients are equally long")
    lengths.legend(*(part[-1:] for part in lengths.get_legend_handles_labels()), frameon=False, loc="upper left")


def draw_shares(report: dict, unit: str, axes) -> None:
    """Draw bars for all seeds together, with a line from the least to the greatest seed."""
    for offset, conflict, colour, label in ((-0.2, True, BLUE, "conflict"), (0.2, False, PALE, "no conflict")):
        rows = [row for row in report["shares"] if (row["unit"], row["conflict"]) == (unit, conflict) and row["cases"]]
        if not rows:
            continue
        x = [RATIOS.index(row["l"]) + offset for row in rows]
        share = [100 * row["sago"]["share_tighter"] for row in rows]
        ends = [[100 * row["sago"]["share_tighter_by_seed"][end] for row in rows] for end in ("least", "greatest")]
        axes.bar(x, share, 0.38, color=colour, label=f"{label} ({rows[0]['cases']:,})")
        axes.vlines(x, *ends, color="black", linewidth=1.2)
    axes.set_xticks(range(len(RATIOS)), [f"{ratio:g}" for ratio in RATIOS])
    axes.set(ylim=(0, 101), xlabel="l = gamma / alpha", ylabel="SAGO tighter, % of cases")
    title = "Whole model, PCGrad global" if unit == "model" else "Parameter tensors, PCGrad per tensor"
    axes.legend(**ABOVE, ncols=2, title=title)


def show(report: dict) -> None:
    console = Console()
    title = f"Beside PCGrad; {len(report['seeds'])} runs of {report['steps_a_seed']} steps"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)
    for column in ("cases", "conflict", "l", "SAGO, %", "counts", "T5", "keep_retain"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report["shares"]:
        if row["cases"]:
            ends = "-".join(f"{100 * share:.1f}" for share in row["sago"]["share_tighter_by_seed"].values())
            table.add_row(
                row["unit"],
                "yes" if row["conflict"] else "no",
                f"{row['l']:g}",
                f"{100 * row['sago']['share_tighter']:.1f} ({ends})",
                "/".join(str(row["sago"][order]) for order in ORDERS.values()),
                str(row.get("promised_by_t5", "")),
                "/".join(str(row["sago_keep_retain"][order]) for order in ORDERS.values()),
            )
    console.print(table)
    conflicting = [row for row in report["shares"] if row["conflict"]]
    foreseen, cases = (sum(row[key] for row in conflicting) for key in ("sago_as_t7_foresees", "cases"))
    console.print(
        "SAGO, %: share strictly tighter (least and greatest of the seeds); counts: tighter/equal/looser; T5: cases in which its",
        f"condition holds. As T7 foresees in {foreseen} of {cases} cases with conflict.",
        f"Tensors left out, a gradient being zero: {report['tensors_left_out']}.",
    )
    if report["crossing"]:
        product, crossing = report["crossing_point_times_forget_over_retain"], report["crossing"]
        other = sum(bool(row["ordered_otherwise_when_stored"]) for row in crossing["checks"])
        console.print(
            "l* |f| / |r| of the whole model: median {median:.2f} ({least:.2f}-{greatest:.2f}).".format(**product),
            f"Seed {crossing['seed']}, step {crossing['step']}: l* = {crossing['crossing_point']:.3f},",
            f"b/p = {crossing['t5_bound']:.3f}, floor {crossing['floor']:.3f}; stored updates ordered otherwise than drawn at",
            f"{other} of {len(crossing['checks'])} weights.",
        )
    console.print(f"{report['versions']}, {report['machine']}, {report['threads']} threads")


if __name__ == "__main__":
    main()
