"""The tables of the part on the guard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retainfirst_lab.report import Table
from retainfirst_lab.reproduce.guard_claim import CLAIM, RULE, overall
from retainfirst_lab.reproduce.guard_design import COMMON_RATES
from retainfirst_lab.reproduce.table_parts import (
    GUARD_NAMES,
    NAMES,
    Results,
    difference_cell,
    mean_cell,
    target_accuracy,
)

__all__ = ["OPTIMIZER_NAMES", "guard_tables", "terminal_guard_table", "verdict_line"]

OPTIMIZER_NAMES = {"adamw": "AdamW", "sgd": "SGD"}
TERMINAL = ("objective", "optimiser", "combiner", "guard", "covered", "held out", "steps that oppose")


def guard_tables(results: Results) -> list[Table]:
    """Return the tables of the part; of a run without it none."""
    if not results.get("guard"):
        return []
    made = [
        claim_table(results),
        arms_table(results),
        leads_table(results),
        changes_table(results),
        rates_table(results),
    ]
    return [table for table in made if table.rows]


def claim_table(results: Results) -> Table:
    """Return the verdict on the claim, and the rows that it is made of."""
    rows = [
        [
            NAMES[row["objective"]],
            _way(results, way),
            _route(row),
            *(_difference(row[name]) for name in ("lead", "lead_on_route", "shrinks", "margin")),
            row["verdict"] + (" (one seed)" if row["margin"]["n"] == 1 else ""),
        ]
        for way, found in results["guard"]["compared"].items()
        for row in found["claim"]
    ]
    return Table(
        "The guard: the claim",
        ["objective", "compared at", "route", "lead with AdamW", "lead on the route", "shrinks by", "margin", "verdict"],
        rows,
        f"Claim: {CLAIM} Lead: SAGO's retained accuracy (mean of covered and held out) minus PCGrad's, paired by seed, with its"
        f" 95 % bootstrap interval. {RULE} {verdict_line(results)}",
    )  # fmt: skip


def verdict_line(results: Results) -> str:
    """Return one sentence with the verdict for each objective."""
    rows = [row for found in results["guard"]["compared"].values() for row in found["claim"]]
    verdicts = {
        NAMES[objective]: overall(row["verdict"] for row in rows if row["objective"] == objective)
        for objective in dict.fromkeys(row["objective"] for row in rows)
    }
    seeds = " (one seed)" if rows and max(row["margin"]["n"] for row in rows) == 1 else ""
    said = [f"with {name} the claim {_verb(verdict)}{seeds}" for name, verdict in verdicts.items()]
    return f"Verdict: {'; '.join(said) or 'the claim could not be judged'}."


def _verb(verdict: str) -> str:
    return "is undecided" if verdict == "undecided" else verdict


def arms_table(results: Results) -> Table:
    """Return every arm at equal forgetting, at each way of comparing."""
    names = ("steps", "covered", "held_out", "forget_paraphrased", "regained")
    chosen = {_key(row): row["learning_rate"] for row in results["guard"]["chosen"]}
    rows = []
    for way, found in results["guard"]["compared"].items():
        for row in _in_order(found["arms"]):
            rate = {"common": COMMON_RATES[row["optimizer"]], "chosen": chosen.get(_key(row))}.get(way)
            rows.append(
                [
                    NAMES[row["objective"]],
                    _way(results, way),
                    OPTIMIZER_NAMES[row["optimizer"]],
                    NAMES[row["variant"]],
                    GUARD_NAMES[row["guard"]],
                    "" if rate is None else f"{rate:g}",
                    f"{row['reached']}/{row['runs']}",
                    *(mean_cell(row, name) for name in names),
                    _percent(row),
                ]
            )
    return Table(
        "The guard: retain accuracy at equal forgetting",
        ["objective", "compared at", "optimiser", "combiner", "guard", "rate", "seeds", "steps", "covered", "held out",
         "forget, paraphrased", "regained", "steps that oppose"],
        rows,
        f"At forget accuracy {target_accuracy(results):.2f}; mean ± standard deviation over seeds. Seeds: those that can be"
        " compared, of those that were run. Steps: to the target. At equal steps, numbers are interpolated in the logarithm of"
        " the steps between the two rates of an arm that need fewer and more; a seed without such rates is left out. Steps that"
        " oppose: the share of all steps of the path in which the parameters moved against the retain gradient, measured by the"
        " guard; off measures and changes nothing. Regained: after relearning.",
    )  # fmt: skip


def terminal_guard_table(results: Results) -> Table:
    """Return the arms at equal steps, in the columns that fit into a terminal."""
    full = arms_table(results)
    kept = [full.columns.index(name) for name in TERMINAL]
    at = full.columns.index("compared at")
    rows = [[row[index] for index in kept] for row in full.rows if row[at] == _way(results, "equal_steps")]
    title = f"The guard: retain accuracy at forget accuracy {target_accuracy(results):.2f}, reached in about"
    return Table(f"{title} {results['guard']['steps']:g} steps", list(TERMINAL), rows)


def leads_table(results: Results) -> Table:
    """Return SAGO's lead over PCGrad on each side."""
    return _differences(
        results, "leads", ("optimizer", "guard"), "The guard: SAGO's lead over PCGrad",
        "SAGO minus PCGrad at equal forgetting, both with this optimiser and guard, paired by seed, with its 95 % bootstrap"
        " interval; in brackets if it contains 0. Retained: the mean of covered and held out.",
    )  # fmt: skip


def changes_table(results: Results) -> Table:
    """Return what the guard changes for each rule and optimiser."""
    return _differences(
        results, "guard", ("optimizer", "variant"), "The guard: what it changes",
        "With the guard minus without it at equal forgetting, paired by seed, with its 95 % bootstrap interval; in brackets if it"
        " contains 0.",
    )  # fmt: skip


def rates_table(results: Results) -> Table:
    """Return the rates that were chosen on the development seeds."""
    return Table(
        "The guard: rates chosen on the development seeds",
        ["objective", "optimiser", "combiner", "guard", "learning rate"],
        [[*_arm_cells(row), f"{row['learning_rate']:g}"] for row in _in_order(results["guard"]["chosen"])],
        f"Seeds {', '.join(map(str, results['development_seeds']))}, by the same rule as the other settings.",
    )


def _differences(results: Results, which: str, columns: tuple[str, str], title: str, note: str) -> Table:
    measures = {"retained": "retained", "covered": "covered", "held_out": "held out", "steps": "steps"}
    rows = []
    for way, compared in results["guard"]["compared"].items():
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in compared[which]:
            if row["measure"] == "steps" and way == "equal_steps":
                continue
            found.setdefault((row["objective"], row[columns[0]], row[columns[1]]), {})[row["measure"]] = row
        for (objective, optimizer, other), by_measure in found.items():
            cells = [
                difference_cell(by_measure[name], brackets=True) if name in by_measure else "" for name in measures
            ]
            second = GUARD_NAMES.get(other, "") or NAMES[other]
            rows.append([NAMES[objective], _way(results, way), OPTIMIZER_NAMES[optimizer], second, *cells])
    name = "guard" if columns[1] == "guard" else "combiner"
    return Table(title, ["objective", "compared at", "optimiser", name, *measures.values()], rows, note)


def _way(results: Results, way: str) -> str:
    names = {"common": "common rate", "chosen": "chosen rate", "equal_steps": f"{results['guard']['steps']:g} steps"}
    return names[way]


def _route(row: Mapping[str, Any]) -> str:
    return "SGD" if row["optimizer"] == "sgd" else "AdamW, guard on both"


def _difference(found: Mapping[str, Any]) -> str:
    return difference_cell({**found, "measure": "retained"})


def _percent(row: Mapping[str, Any]) -> str:
    number = row["numbers"].get("opposing")
    return "" if number is None else f"{100 * number['mean']:.0f} %"


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["objective"], row["variant"], row["optimizer"], row["guard"]


def _in_order(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """By objective, optimiser, combiner, guard."""
    orders = {
        "objective": list(NAMES),
        "optimizer": list(OPTIMIZER_NAMES),
        "variant": list(NAMES),
        "guard": list(GUARD_NAMES),
    }
    return sorted(rows, key=lambda row: [order.index(row[name]) for name, order in orders.items()])


def _arm_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        NAMES[row["objective"]],
        OPTIMIZER_NAMES[row["optimizer"]],
        NAMES[row["variant"]],
        GUARD_NAMES[row["guard"]],
    ]
