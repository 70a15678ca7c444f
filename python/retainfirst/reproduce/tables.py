"""The report's tables, as headings and cells of text; markdown, HTML and the terminal only set them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retainfirst.reproduce.paper import CLAIMS, GEOMETRY, TABLE, Claim

__all__ = ["NAMES", "Table", "all_tables", "main_table", "terminal_table", "verdicts"]

NAMES = {
    "ga": "GA + GD",
    "npo": "NPO + GD",
    "simnpo": "SimNPO + GD",
    "rmu": "RMU",
    "sum": "naive (sum)",
    "pcgrad": "PCGrad",
    "pcgrad_module": "PCGrad, module",
    "pcgrad_block": "PCGrad, block",
    "pcgrad_global": "PCGrad, global",
    "sago": "SAGO",
    "sago_keep_retain": "SAGO, keep retain",
    "blur": "BLUR",
}
"""How tables and figures call objectives and rules."""

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: What it shows.
        note: How to read it.
        columns: Headings.
        rows: Cells; ``""`` where there is nothing.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def all_tables(results: Results) -> list[Table]:
    """Return the tables of a run, those with something in them."""
    made = [
        main_table(results),
        _agreement(results),
        _differences(results),
        _cost(results),
        _end_models(results),
        _geometry(results),
        _sweep(results),
        _control(results),
        _chosen(results),
    ]
    return [table for table in made if table.rows]


def main_table(results: Results) -> Table:
    """The 3x3 table (and the baselines) beside the paper's."""
    target = _target(results)
    rows = []
    for row in _rows(results, "chosen", results["main_bench"]):
        paper = TABLE.get((row["objective"], row["rule"]))
        ours = [_number(row, name) for name in ("covered", "held_out", "unrelated", "forget_paraphrased")]
        if not row["reached"]:
            ours[0] = f"not forgotten: {row['least_forget_accuracy']:.3f}"
        published = ["", "", "", ""]
        if paper is not None:
            published = [
                f"{paper.bio_mmlu:.1f} ({100 * (paper.recovery or 0):.0f} %)",
                f"{paper.bio_forget:.1f}",
                _or_blank(paper.cyber_mmlu),
                _or_blank(paper.neighbor),
            ]
        rows.append(
            [
                *_names(row),
                f"{row['reached']}/{row['runs']}",
                *ours,
                _number(row, "frontier_area"),
                _number(row, "recovery"),
                *published,
            ]
        )
    return Table(
        "Retained at equal forgetting, beside the paper",
        f"Ours: accuracy over four choices (chance 0.25; target model: {_targets(results)}) where the forget accuracy is"
        f" {target:.2f}, interpolated along each path; mean ± standard deviation over seeds. Covered: facts"
        " in the retain batches; held out: the same kind of facts, in no batch; unrelated: facts that share no word with "
        "those forgotten. Paper: Zephyr-7B-beta, per cent; MMLU of the target model 59.8; in brackets its"
        " recovery, MMLU over that of the target model; ours is covered over covered of the target model.",
        ["objective", "rule", "forgot", "covered", "held out", "unrelated", "forget, paraphrased", "frontier area", "recovery",
         "paper: Bio MMLU", "Bio forget", "Cyber MMLU", "RWKU Neighbor"],
        rows,
    )  # fmt: skip


def terminal_table(results: Results) -> Table:
    """The main table in the width of a terminal."""
    full = main_table(results)
    kept = [
        full.columns.index(name) for name in ("objective", "rule", "covered", "held out", "recovery", "paper: Bio MMLU")
    ]
    rows = [[row[index] for index in kept] for row in full.rows]
    columns = [full.columns[index] for index in kept]
    return Table(f"Retained where the forget accuracy is {_target(results):.2f}", "", columns, rows)


def _target(results: Results) -> float:
    return float(results["identity"]["sizes"]["target"])


def _targets(results: Results) -> str:
    """The target models' accuracies, averaged over the seeds."""
    starts = [one["path"][0] for one in results["cells"] if one["role"] == "report"]
    found = {
        name.replace("_", " "): sum(start[name] for start in starts) / len(starts)
        for name in results["measures"]
        if starts and all(name in start for start in starts)
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items())


def _agreement(results: Results) -> Table:
    rows = []
    for claim in CLAIMS:
        for objective in ("ga", "npo", "simnpo"):
            found = _comparison(results, claim, objective)
            if found is not None:
                rows.append([claim.text, NAMES[objective], _difference(found), _verdict(found, claim.expected)])
    return Table(
        "What agrees with the paper",
        "Each claim of the paper against the paired difference here, at equal forgetting: mean over seeds and its 95 % bootstrap"
        " interval. Where the interval holds 0, no difference was seen; with one seed there is no interval, and only the sign is"
        " told. Cosines are those of all rules on the same states, at the same weights.",
        ["the paper", "objective", "here", "verdict"],
        rows,
    )


def verdicts(results: Results) -> dict[str, int]:
    """Count the verdicts of the agreement table."""
    counts: dict[str, int] = {}
    for row in _agreement(results).rows:
        counts[row[-1]] = counts.get(row[-1], 0) + 1
    return counts


def _comparison(results: Results, claim: Claim, objective: str) -> Mapping[str, Any] | None:
    which = "common" if claim.measure.startswith("cos") else "chosen"
    for row in results["comparisons"][which]:
        if (row["bench"], row["objective"], row["rule"], row["than"], row["measure"]) == (
            results["main_bench"], objective, claim.rule, claim.than, claim.measure,
        ):  # fmt: skip
            return dict(row)
    return None


def _verdict(found: Mapping[str, Any], expected: str) -> str:
    if found["verdict"] == "no difference seen":
        return "no difference seen"
    verdict = "agrees" if found["verdict"] == expected else "does not agree"
    return verdict + (" (one seed)" if found["n"] == 1 else "")


def _differences(results: Results) -> Table:
    titles = {"covered": "covered", "held_out": "held out", "unrelated": "unrelated", "frontier_area": "frontier area"}
    rows = []
    for which, found in results["comparisons"].items():
        keyed: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in found:
            keyed.setdefault((row["bench"], row["objective"], row["rule"], row["than"]), {})[row["measure"]] = row
        for (bench, objective, rule, than), measures in keyed.items():
            if bench == results["main_bench"]:
                numbers = [
                    _difference(measures[name], stars=True) if name in measures else "" for name in (*titles, "steps")
                ]
                rows.append([which, NAMES[objective], f"{NAMES[rule]} − {NAMES[than]}", *numbers])
    if results["comparisons"]["chosen"] == results["comparisons"]["common"]:
        rows = [row for row in rows if row[0] == "chosen"]
    return Table(
        "Paired differences at equal forgetting",
        "Mean over seeds with its 95 % bootstrap interval; in brackets where the interval holds 0: no difference seen. Settings:"
        " chosen for each rule on development seeds, or common to all.",
        ["settings", "objective", "difference", *titles.values(), "steps"],
        rows,
    )  # fmt: skip


def _cost(results: Results) -> Table:
    rows = []
    for row in _rows(results, "chosen", results["main_bench"]):
        if row["reached"]:
            back = f"{row['relearned']}/{row['reached']}"
            rows.append([*_names(row), *(_number(row, name) for name in ("steps", "seconds", "regained")), back])
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


def _end_models(results: Results) -> Table:
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


def _geometry(results: Results) -> Table:
    rows = []
    for row in _rows(results, "all", results["main_bench"]):
        if _at_common(results, row) and row["numbers"].get("cos_update_retain"):
            paper = GEOMETRY.get(row["rule"])
            published = [f"{value:+.2f}" for value in paper] if paper and row["objective"] == "ga" else ["", "", ""]
            names = ("cos_forget_retain", "cos_update_retain", "cos_update_forget")
            same = [_number(row, name, sign="+") for name in names]
            own = [_number(row, f"own_{name}", sign="+") for name in names]
            rows.append([*_names(row), *same, *own, *published])
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


def _sweep(results: Results) -> Table:
    rows = []
    for row in _rows(results, "all", results["main_bench"]):
        if row["learning_rate"] == results["common"]["learning_rate"] and row["objective"] != "rmu":
            numbers = [_number(row, name) for name in ("covered", "held_out", "steps", "cos_update_retain")]
            rows.append([*_names(row), f"{row['gamma']:g}", f"{row['reached']}/{row['runs']}", *numbers])
    gammas = {row[2] for row in rows}
    bounds = _bounds(results)
    rows.sort(key=lambda row: (list(NAMES.values()).index(row[0]), float(row[2])))
    return Table(
        "Weights of forget against retain",
        "At equal forgetting and one learning rate. AdamW makes the common factor of gamma and alpha irrelevant, so their ratio"
        " is swept. Theorem T5: SAGO's update is closer to the retain gradient than global PCGrad's wherever the ratio is at"
        f" least b/p, whose mean over the states of the naive path is {bounds}.",
        ["objective", "rule", "gamma/alpha", "forgot", "covered", "held out", "steps", "cos(u, r), same states"],
        rows if len(gammas) > 1 else [],
    )


def _bounds(results: Results) -> str:
    found: dict[str, list[float]] = {}
    for one in results["cells"]:
        key = (one["role"], one["bench"], one["rule"], one["gamma"])
        if (
            key == ("report", results["main_bench"], "sum", results["common"]["gamma"])
            and one["agreement_bound"] is not None
        ):
            found.setdefault(NAMES[one["objective"]], []).append(one["agreement_bound"])
    return ", ".join(f"{sum(values) / len(values):.1f} ({name})" for name, values in found.items()) or "not known"


def _control(results: Results) -> Table:
    rows = []
    for row in _rows(results, "all", "disentangled"):
        numbers = [_number(row, name) for name in ("covered", "held_out", "steps")]
        rows.append([*_names(row), f"{row['reached']}/{row['runs']}", *numbers])
    return Table(
        "Control: forget and retain share nothing",
        "The same at common settings, on facts to forget whose names, relations and objects no retained fact has. There is"
        " nothing to save here, so that all rules should do equally well.",
        ["objective", "rule", "forgot", "covered", "held out", "steps"],
        rows,
    )


def _chosen(results: Results) -> Table:
    return Table(
        "Settings chosen on the development seeds",
        f"Seeds {', '.join(map(str, results['development_seeds']))}; by the highest mean of covered and held-out retain accuracy"
        " at equal forgetting, among settings that reach it on every seed.",
        ["objective", "rule", "gamma/alpha", "learning rate"],
        [[*_names(row), f"{row['gamma']:g}", f"{row['learning_rate']:g}"] for row in results["chosen"]],
    )


def _rows(results: Results, which: str, bench: str) -> Iterable[Mapping[str, Any]]:
    return [row for row in results["summary"][which] if row["bench"] == bench]


def _at_common(results: Results, row: Mapping[str, Any]) -> bool:
    return all(row[name] == value for name, value in results["common"].items())


def _names(row: Mapping[str, Any]) -> list[str]:
    return [NAMES[row["objective"]], NAMES[row["rule"]]]


def _number(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    number = row["numbers"].get(name)
    if number is None:
        return ""
    digits = {"steps": 0, "seconds": 1}.get(name, 2 if "cos" in name else 3)
    spread = "" if number["sd"] is None else f" ± {number['sd']:.{digits}f}"
    return f"{number['mean']:{sign}.{digits}f}{spread}"


def _difference(found: Mapping[str, Any], *, stars: bool = False) -> str:
    digits = 1 if found["measure"] == "steps" else 3
    text = f"{found['mean']:+.{digits}f}"
    if found["low"] is not None:
        text += f" [{found['low']:+.{digits}f}, {found['high']:+.{digits}f}]"
    return f"({text})" if stars and found["verdict"] == "no difference seen" else text


def _or_blank(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
