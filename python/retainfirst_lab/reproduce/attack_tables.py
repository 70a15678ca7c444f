"""The tables of the part on attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retainfirst_lab.report import Table
from retainfirst_lab.reproduce.attack_claims import CLAIMS, RULE
from retainfirst_lab.reproduce.attack_design import ATTACKS
from retainfirst_lab.reproduce.table_parts import (
    GUARD_NAMES,
    NAMES,
    Results,
    difference_cell,
    mean_cell,
    target_accuracy,
)

__all__ = ["attack_tables", "attack_verdicts", "terminal_attack_table"]

SETTINGS = ("objective", "rate", "guard")
TERMINAL = ("objective", "rate", "guard", "combiner", "8 bits", "4 bits", "relearning")


def attack_tables(results: Results) -> list[Table]:
    """Return the tables of the part; of a run without it none."""
    if not results.get("attacks"):
        return []
    made = [claims_table(results), shares_table(results), differences_table(results)]
    return [table for table in made if table.rows]


def claims_table(results: Results) -> Table:
    """Return the verdict on each claim."""
    rows = [
        [
            row["claim"],
            *_settings(row),
            str(row["n"]),
            difference_cell({**row, "measure": "share"}),
            row["verdict"] + (" (one seed)" if row["n"] == 1 else ""),
        ]
        for row in results["attacks"]["claims"]
    ]
    said = " ".join(f"{name}: {text}." for name, text in CLAIMS.items())
    return Table(
        "Attacks: the claims",
        ["claim", *SETTINGS, "seeds", "share of the lost forget accuracy", "verdict"],
        rows,
        f"Claims, fixed before the first run. {said} {RULE} Share, with its 95 % bootstrap interval: for Q4 and R SAGO's"
        " recovered share minus that of plain addition, paired by seed; for Q8, of all rules and 8-bit quantisers, the"
        f" recovered share whose interval reaches farthest from 0. {attack_verdicts(results)}",
    )


def attack_verdicts(results: Results) -> str:
    """Return one sentence with the number of comparisons in which each claim holds."""
    found: dict[str, list[str]] = {}
    for row in results["attacks"]["claims"]:
        found.setdefault(row["claim"], []).append(row["verdict"])
    said = [f"{claim} holds in {given.count('holds')} of {len(given)} comparisons" for claim, given in found.items()]
    one_seed = " (one seed)" if said and max(row["n"] for row in results["attacks"]["claims"]) == 1 else ""
    return f"Verdict: {'; '.join(said) or 'no claim could be judged'}{one_seed}."


def shares_table(results: Results) -> Table:
    """Return what each attack brings back."""
    names = ("steps", "forget", "covered", *ATTACKS, "moved_codes")
    rows = [
        [
            *_settings(row),
            NAMES[row["variant"]],
            f"{row['reached']}/{row['runs']}",
            *(mean_cell(row, name) for name in names),
        ]
        for row in results["attacks"]["arms"]
    ]
    return Table(
        "Attacks: share of the lost forget accuracy that comes back",
        [*SETTINGS, "combiner", "seeds", "steps", "forget", "covered", *ATTACKS, "4-bit codes moved"],
        rows,
        f"Every run ends when the forget accuracy is at most {target_accuracy(results):.2f}; mean ± standard deviation over the"
        " seeds that got there, of those that were run. Recovered share: (attacked - after) / (before - after) in forget"
        " accuracy. Quantisers round to the nearest, with one scale an output channel, or a group of 64 weights. Relearning"
        " trains on some of the forget facts and measures the others. Moved: the share of weights whose 4-bit value is another"
        " than before unlearning. The rates are fixed: nothing is chosen on development seeds.",
    )


def differences_table(results: Results) -> Table:
    """Return the differences of the rules from plain addition."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in results["attacks"]["differences"]:
        key = (*_settings(row), NAMES[row["variant"]])
        found.setdefault(key, {})[row["measure"]] = difference_cell(row, brackets=True)
    return Table(
        "Attacks: difference from plain addition",
        [*SETTINGS, "combiner", *ATTACKS],
        [[*key, *(cells.get(attack, "") for attack in ATTACKS)] for key, cells in found.items()],
        "Recovered share minus that of plain addition, paired by seed, with its 95 % bootstrap interval; in brackets if it"
        " contains 0.",
    )


def terminal_attack_table(results: Results) -> Table:
    """Return what the attacks bring back, in the columns that fit into a terminal."""
    full = shares_table(results)
    kept = [full.columns.index(name) for name in TERMINAL]
    return Table(full.title, list(TERMINAL), [[row[index] for index in kept] for row in full.rows])


def _settings(row: Mapping[str, Any]) -> list[str]:
    return [NAMES[row["objective"]], f"{row['learning_rate']:g}", GUARD_NAMES[row["guard"]]]
