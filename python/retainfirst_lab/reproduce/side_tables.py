"""The tables beside the main one: cost, more questions, geometry, sweep, control, choice of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retainfirst_lab.paper import GEOMETRY
from retainfirst_lab.reproduce.table_parts import (
    NAMES,
    Results,
    Table,
    at_common,
    name_cells,
    number_cell,
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
    """Steps and seconds to the target, and relearning."""
    rows = []
    for row in summary_rows(results, "chosen", results["main_bench"]):
        if row["reached"]:
            back = f"{row['relearned']}/{row['reached']}"
            rows.append(
                [*name_cells(row), *(number_cell(row, name) for name in ("steps", "seconds", "regained")), back]
            )
    steps = results["identity"]["sizes"]["relearn_steps"]
    shown = results["identity"]["sizes"]["relearn_rows"]
    return Table(
        "What the same forgetting costs, and how fast it is undone",
        f"Steps and seconds (of the optimiser steps alone) to the target. Relearning: the end model is fine-tuned for {steps}"
        f" steps on {shown} of the forget facts; regained is the share of what was lost on the *other* forget facts that is back"
        " afterwards, and the last column counts the runs in which half of it came back.",
        ["objective", "rule", "steps", "seconds", "regained", "half back"],
        rows,
    )


def end_models_table(results: Results) -> Table:
    """What only the end models were asked."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    target: dict[str, float] = {}
    for one in results["cells"]:
        if one["role"] == "report" and one["bench"] == results["main_bench"]:
            groups.setdefault((one["objective"], one["rule"]), []).append(one)
            target = {name: v for name, v in one["lm_eval"]["target"].items() if name not in one["path"][-1]}
    rows = [["", "target model", "", *(f"{value:.3f}" for value in target.values())]]
    for (objective, rule), cells in groups.items():
        forget = sum(one["path"][-1]["forget"] for one in cells) / len(cells)
        means = [sum(one["lm_eval"]["end"][name] for one in cells) / len(cells) for name in target]
        rows.append([NAMES[objective], NAMES[rule], f"{forget:.3f}", *(f"{value:.3f}" for value in means)])
    return Table(
        "The end models on more questions",
        "By lm-eval, at the end of each path: not at equal forgetting, whose accuracy stands beside.",
        ["objective", "rule", "forget", *(name.replace("_", " ") for name in target)],
        rows if target else [],
    )


def geometry_table(results: Results) -> Table:
    """The cosines, on the same states and along own paths, beside the paper's."""
    rows = []
    for row in summary_rows(results, "all", results["main_bench"]):
        if at_common(results, row) and row["numbers"].get("cos_update_retain"):
            paper = GEOMETRY.get(row["rule"])
            published = [f"{value:+.2f}" for value in paper] if paper and row["objective"] == "ga" else ["", "", ""]
            names = ("cos_forget_retain", "cos_update_retain", "cos_update_forget")
            same = [number_cell(row, name, sign="+") for name in names]
            own = [number_cell(row, f"own_{name}", sign="+") for name in names]
            rows.append([*name_cells(row), *same, *own, *published])
    gamma = results["common"]["gamma"]
    return Table(
        "Geometry, beside the paper",
        f"Cosines of the forget gradient f, the retain gradient r and the update u at gamma/alpha = {gamma:g}. Same states: all"
        " rules on the two gradients of the states of the naive path. Own path: along each rule's own path, where the states"
        " differ, so that these columns do not compare the rules. Paper: own path, GA + GD, WMDP Cyber.",
        [
            "objective",
            "rule",
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
    )


def sweep_table(results: Results) -> Table:
    """The same comparison over gamma/alpha; no rows without a sweep."""
    rows = []
    for row in summary_rows(results, "all", results["main_bench"]):
        if row["learning_rate"] == results["common"]["learning_rate"] and row["objective"] != "rmu":
            numbers = [number_cell(row, name) for name in ("covered", "held_out", "steps", "cos_update_retain")]
            rows.append([*name_cells(row), f"{row['gamma']:g}", f"{row['reached']}/{row['runs']}", *numbers])
    gammas = {row[2] for row in rows}
    rows.sort(key=lambda row: (list(NAMES.values()).index(row[0]), float(row[2])))
    return Table(
        "Weights of forget against retain",
        "At equal forgetting and one learning rate. AdamW makes the common factor of gamma and alpha irrelevant, so their ratio"
        " is swept.",
        ["objective", "rule", "gamma/alpha", "forgot", "covered", "held out", "steps", "cos(u, r), same states"],
        rows if len(gammas) > 1 else [],
    )


def closer_table(results: Results) -> Table:
    """On how many states each SAGO's update was closer to the retain gradient than PCGrad's; no rows without a sweep."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    wanted = ("sago", "sago_keep_retain", "pcgrad_global")
    for one in results["cells"]:
        same = (one["role"], one["bench"], one["rule"], one["learning_rate"])
        if same == ("report", results["main_bench"], "sum", results["common"]["learning_rate"]):
            groups.setdefault((one["objective"], one["gamma"]), []).append(one)
    rows = []
    for (objective, gamma), cells in sorted(
        groups.items(), key=lambda item: (list(NAMES).index(item[0][0]), item[0][1])
    ):
        states = [state for one in cells for state in one["states"] if all(name in state for name in wanted)]
        # Without a conflict there is no projection, and the theorems say nothing.
        states = [state for state in states if state["pcgrad_global"] != state["sum"]]
        bounds = [one["agreement_bound"] for one in cells if one["agreement_bound"] is not None]
        if states and bounds:
            closer = [sum(state[rule] > state["pcgrad_global"] for state in states) for rule in wanted[:2]]
            counts = [f"{count} of {len(states)}" for count in closer]
            rows.append([NAMES[objective], f"{gamma:g}", f"{sum(bounds) / len(bounds):.1f}", *counts])
    return Table(
        "Where SAGO's update is closer to the retain gradient than PCGrad's",
        "States of the naive path at one learning rate where the whole gradients conflict, and on how many of them the update's"
        " cosine with the retain gradient is larger than that of PCGrad over the whole model. Theorem T5 promises it for SAGO"
        " where gamma/alpha is at least b/p (a mean over the path stands here), T7 that there is one crossing point, at most"
        " b/p, and T6 that the form that keeps the retain gradient is never further away.",
        ["objective", "gamma/alpha", "b/p", "SAGO", "SAGO, keep retain"],
        rows if len({gamma for _, gamma in groups}) > 1 else [],
    )


def control_table(results: Results) -> Table:
    """The bench on which forget and retain share nothing."""
    rows = []
    for row in summary_rows(results, "all", "disentangled"):
        numbers = [number_cell(row, name) for name in ("covered", "held_out", "steps")]
        rows.append([*name_cells(row), f"{row['reached']}/{row['runs']}", *numbers])
    return Table(
        "Control: forget and retain share nothing",
        "The same at common settings, on facts to forget whose names, relations and objects no retained fact has. There is"
        " nothing to save here, so that all rules should do equally well.",
        ["objective", "rule", "forgot", "covered", "held out", "steps"],
        rows,
    )


def chosen_table(results: Results) -> Table:
    """What was chosen on the development seeds."""
    return Table(
        "Settings chosen on the development seeds",
        f"Seeds {', '.join(map(str, results['development_seeds']))}; by the highest mean of covered and held-out retain accuracy"
        " at equal forgetting, among settings that reach it on every seed.",
        ["objective", "rule", "gamma/alpha", "learning rate"],
        [[*name_cells(row), f"{row['gamma']:g}", f"{row['learning_rate']:g}"] for row in results["chosen"]],
    )
