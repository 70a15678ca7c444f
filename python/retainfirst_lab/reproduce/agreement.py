"""The tables of differences between rules, and what they say about the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retainfirst_lab.paper import CLAIMS, Claim
from retainfirst_lab.reproduce.table_parts import NAMES, Results, Table, difference_cell, in_order

__all__ = ["agreement_table", "differences_table", "verdicts"]


def agreement_table(results: Results) -> Table:
    """Each claim of the paper against what was seen here."""
    rows = []
    for claim in CLAIMS:
        for objective in ("ga", "npo", "simnpo"):
            found = _comparison(results, claim, objective)
            if found is not None:
                rows.append([claim.text, NAMES[objective], difference_cell(found), _verdict(found, claim.expected)])
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
    for row in agreement_table(results).rows:
        counts[row[-1]] = counts.get(row[-1], 0) + 1
    return counts


def _comparison(results: Results, claim: Claim, objective: str) -> Mapping[str, Any] | None:
    which = "common" if claim.measure.startswith("cos") else "chosen"
    for row in results["comparisons"][which]:
        if (row["bench"], row["objective"], row["rule"], row["than"], row["measure"]) == (
            results["main_bench"], objective, claim.combiner, claim.than, claim.measure,
        ):  # fmt: skip
            return dict(row)
    return None


def _verdict(found: Mapping[str, Any], expected: str) -> str:
    if found["verdict"] == "no difference seen":
        return "no difference seen"
    verdict = "agrees" if found["verdict"] == expected else "does not agree"
    return verdict + (" (one seed)" if found["n"] == 1 else "")


def differences_table(results: Results) -> Table:
    """Every comparison of two rules, with its interval."""
    titles = {"covered": "covered", "held_out": "held out", "unrelated": "unrelated", "frontier_area": "frontier area"}
    rows = []
    for which, found in results["comparisons"].items():
        keyed: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in sorted(found, key=in_order):
            keyed.setdefault((row["bench"], row["objective"], row["rule"], row["than"]), {})[row["measure"]] = row
        for (bench, objective, rule, than), measures in keyed.items():
            if bench == results["main_bench"]:
                numbers = [
                    difference_cell(measures[name], stars=True) if name in measures else ""
                    for name in (*titles, "steps")
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
