"""The other tables of a report: cost, more questions, geometry, sweep, control, choice of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retainfirst_lab.paper import GEOMETRY
from retainfirst_lab.report import Table
from retainfirst_lab.reproduce.table_parts import (
    NAMES,
    Results,
    at_common,
    mean_cell,
    name_cells,
    summary_rows,
)

__all__ = [
    "chosen_table",
    "closer_table",
    "control_table",
    "cost_table",
    "end_models_table",
    "geometry_table",
    "sweep_table",
]


def cost_table(results: Results) -> Table:
    """Return steps and seconds to the target, and the relearning."""
    rows = []
    for row in summary_rows(results, "chosen", results["main_testbed"]):
        if row["reached"]:
            back = f"{row['relearned']}/{row['reached']}"
            rows.append([*name_cells(row), *(mean_cell(row, name) for name in ("steps", "seconds", "regained")), back])
    steps = results["identity"]["sizes"]["relearn_steps"]
    shown = results["identity"]["sizes"]["relearn_rows"]
    return Table(
        "Steps to the target, and relearning",
        ["objective", "combiner", "steps", "seconds", "regained", "half back"],
        rows,
        f"Seconds count the optimiser steps only. Relearning: the end model is fine-tuned for {steps} steps on {shown} of the"
        " forget facts. Regained is the share of the accuracy lost on the *other* forget facts that comes back; the last column"
        " counts the runs in which half of it comes back.",
    )


def end_models_table(results: Results) -> Table:
    """Return the accuracies on the questions that only end models are asked."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    target: dict[str, float] = {}
    for one in results["cells"]:
        if one["role"] == "report" and one["testbed"] == results["main_testbed"]:
            groups.setdefault((one["objective"], one["variant"]), []).append(one)
            target = {name: v for name, v in one["lm_eval"]["target"].items() if name not in one["path"][-1]}
    rows = [["", "target model", "", *(f"{value:.3f}" for value in target.values())]]
    for (objective, variant), cells in groups.items():
        forget = sum(one["path"][-1]["forget"] for one in cells) / len(cells)
        means = [sum(one["lm_eval"]["end"][name] for one in cells) / len(cells) for name in target]
        rows.append([NAMES[objective], NAMES[variant], f"{forget:.3f}", *(f"{value:.3f}" for value in means)])
    return Table(
        "End models on more questions",
        ["objective", "combiner", "forget", *(name.replace("_", " ") for name in target)],
        rows if target else [],
        "By lm-eval, at the end of each path. This is not at equal forgetting: the column forget has each end model's accuracy.",
    )


def geometry_table(results: Results) -> Table:
    """Return the cosines on the same states and along own paths, with the paper's."""
    rows = []
    for row in summary_rows(results, "all", results["main_testbed"]):
        if at_common(results, row) and row["numbers"].get("cos_update_retain"):
            paper = GEOMETRY.get(row["variant"])
            published = [f"{value:+.2f}" for value in paper] if paper and row["objective"] == "ga" else ["", "", ""]
            names = ("cos_forget_retain", "cos_update_retain", "cos_update_forget")
            same = [mean_cell(row, name, sign="+") for name in names]
            own = [mean_cell(row, f"own_{name}", sign="+") for name in names]
            rows.append([*name_cells(row), *same, *own, *published])
    gamma = results["common"]["gamma"]
    return Table(
        "Geometry, compared with the paper",
        [
            "objective",
            "combiner",
            "same states: f·r",
            "u·r",
            "u·f",
            "own path: f·r",
            "u·r",
            "u·f",
            "paper: f·r",
            "u·r",
            "u·f",
        ],
        rows,
        f"Cosines of the forget gradient f, the retain gradient r and the update u at gamma/alpha = {gamma:g}. Same states: all"
        " combiners on the gradients of the states of the naive path. Own path: along each combiner's own path; the states"
        " differ, so these columns do not compare the combiners. Paper: own path, GA + GD, WMDP Cyber.",
    )


def sweep_table(results: Results) -> Table:
    """Return the comparison over gamma/alpha; a run without a sweep has no rows."""
    rows = []
    for row in summary_rows(results, "all", results["main_testbed"]):
        if row["learning_rate"] == results["common"]["learning_rate"] and row["objective"] != "rmu":
            numbers = [mean_cell(row, name) for name in ("covered", "held_out", "steps", "cos_update_retain")]
            rows.append([*name_cells(row), f"{row['gamma']:g}", f"{row['reached']}/{row['runs']}", *numbers])
    gammas = {row[2] for row in rows}
    rows.sort(key=lambda row: (list(NAMES.values()).index(row[0]), float(row[2])))
    return Table(
        "Sweep of gamma/alpha",
        ["objective", "combiner", "gamma/alpha", "forgot", "covered", "held out", "steps", "cos(u, r), same states"],
        rows if len(gammas) > 1 else [],
        "At equal forgetting and one learning rate. AdamW is invariant to a common factor of gamma and alpha.",
    )


def closer_table(results: Results) -> Table:
    """Return the number of states at which SAGO is closer to the retain gradient than PCGrad; without a sweep, no rows."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    wanted = ("sago", "sago_keep_retain", "pcgrad_global")
    for one in results["cells"]:
        same = (one["role"], one["testbed"], one["variant"], one["learning_rate"])
        if same == ("report", results["main_testbed"], "sum", results["common"]["learning_rate"]):
            groups.setdefault((one["objective"], one["gamma"]), []).append(one)
    rows = []
    for (objective, gamma), cells in sorted(
        groups.items(), key=lambda item: (list(NAMES).index(item[0][0]), item[0][1])
    ):
        states = [state for one in cells for state in one["states"] if all(name in state for name in wanted)]
        # Without a conflict PCGrad is plain addition, and the theorems do not apply.
        states = [state for state in states if state["pcgrad_global"] != state["sum"]]
        bounds = [one["agreement_bound"] for one in cells if one["agreement_bound"] is not None]
        if states and bounds:
            closer = [sum(state[label] > state["pcgrad_global"] for state in states) for label in wanted[:2]]
            counts = [f"{count} of {len(states)}" for count in closer]
            rows.append([NAMES[objective], f"{gamma:g}", f"{sum(bounds) / len(bounds):.1f}", *counts])
    return Table(
        "States at which SAGO is closer to the retain gradient than PCGrad",
        ["objective", "gamma/alpha", "b/p", "SAGO", "SAGO, keep retain"],
        rows if len({gamma for _, gamma in groups}) > 1 else [],
        "Of the states of the naive path, at one learning rate, whose whole gradients conflict: the number at which the update's"
        " cosine with the retain gradient is larger than that of PCGrad with the global scope. Theorem T5 promises it for SAGO if"
        " gamma/alpha is at least b/p (here a mean over the path); T7: there is one crossing point, at most b/p; T6: SAGO with"
        " keep_retain is never further away.",
    )


def control_table(results: Results) -> Table:
    """Return the results on the test bed whose forget and retain facts share no words."""
    rows = []
    for row in summary_rows(results, "all", "disentangled"):
        numbers = [mean_cell(row, name) for name in ("covered", "held_out", "steps")]
        rows.append([*name_cells(row), f"{row['reached']}/{row['runs']}", *numbers])
    return Table(
        "Control: no shared words",
        ["objective", "combiner", "forgot", "covered", "held out", "steps"],
        rows,
        "At common settings, with facts to forget whose names, relations and objects are in no retained fact. There is nothing to"
        " protect, so all combiners should do equally well.",
    )


def chosen_table(results: Results) -> Table:
    """Return the settings that were chosen on the development seeds."""
    return Table(
        "Settings chosen on the development seeds",
        ["objective", "combiner", "gamma/alpha", "learning rate"],
        [[*name_cells(row), f"{row['gamma']:g}", f"{row['learning_rate']:g}"] for row in results["chosen"]],
        f"Seeds {', '.join(map(str, results['development_seeds']))}. The choice is the highest mean of covered and held-out"
        " retain accuracy at equal forgetting, among settings that reach it on every seed.",
    )
