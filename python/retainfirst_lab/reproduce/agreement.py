"""The tables of differences between combiners, and the verdicts on the paper's claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retainfirst_lab.paper import CLAIMS, Claim
from retainfirst_lab.report import Table
from retainfirst_lab.reproduce.table_parts import NAMES, Results, difference_cell, in_order

__all__ = ["agreement_table", "differences_table", "verdict_sentence", "verdicts"]


_WORDS = {
    "agrees": ("claim agrees", "claims agree"),
    "does not agree": ("claim does not agree", "claims do not agree"),
    "no difference seen": ("claim shows no difference", "claims show no difference"),
}
"""Verdicts in a sentence, about one claim and about several."""


def agreement_table(results: Results) -> Table:
    """Each claim of the paper, the difference in this run, and the verdict."""
    rows = []
    for claim in CLAIMS:
        for objective in ("ga", "npo", "simnpo"):
            found = _comparison(results, claim, objective)
            if found is not None:
                rows.append([claim.text, NAMES[objective], difference_cell(found), _verdict(found, claim.expected)])
    return Table(
        "Agreement with the paper",
        ["claim of the paper", "objective", "difference", "verdict"],
        rows,
        "The paired difference at equal forgetting: mean over seeds and its 95 % bootstrap interval. No difference is seen if the"
        " interval contains 0. One seed has no interval; its verdict is the sign. Cosines compare all combiners on the same"
        " states, with the same weights.",
    )


def verdicts(results: Results) -> dict[str, int]:
    """Return the number of claims with each verdict."""
    counts: dict[str, int] = {}
    for row in agreement_table(results).rows:
        counts[row[-1]] = counts.get(row[-1], 0) + 1
    return counts


def verdict_sentence(results: Results) -> str:
    """Return how many claims of the paper agree with a run, in words."""
    counts = verdicts(results)
    if not counts:
        return "None of the paper's claims could be judged in this run."
    parts = []
    for verdict, count in sorted(counts.items()):
        word, bracket, seeds = verdict.partition(" (")
        parts.append(f"{count} {_WORDS[word][count != 1]}{bracket}{seeds}")
    return f"The paper's claims in this run: {', '.join(parts)}."


def _comparison(results: Results, claim: Claim, objective: str) -> Mapping[str, Any] | None:
    which = "common" if claim.measure.startswith("cos") else "chosen"
    for row in results["comparisons"][which]:
        if (row["testbed"], row["objective"], row["variant"], row["than"], row["measure"]) == (
            results["main_testbed"], objective, claim.combiner, claim.than, claim.measure,
        ):  # fmt: skip
            return dict(row)
    return None


def _verdict(found: Mapping[str, Any], expected: str) -> str:
    if found["verdict"] == "no difference seen":
        return "no difference seen"
    verdict = "agrees" if found["verdict"] == expected else "does not agree"
    return verdict + (" (one seed)" if found["n"] == 1 else "")


def differences_table(results: Results) -> Table:
    """Every comparison of two combiners, with its interval."""
    titles = {"covered": "covered", "held_out": "held out", "unrelated": "unrelated", "frontier_area": "frontier area"}
    rows = []
    for which, found in results["comparisons"].items():
        keyed: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in sorted(found, key=in_order):
            keyed.setdefault((row["testbed"], row["objective"], row["variant"], row["than"]), {})[row["measure"]] = row
        for (testbed, objective, variant, than), measures in keyed.items():
            if testbed == results["main_testbed"]:
                numbers = [
                    difference_cell(measures[name], brackets=True) if name in measures else ""
                    for name in (*titles, "steps")
                ]
                rows.append([which, NAMES[objective], f"{NAMES[variant]} − {NAMES[than]}", *numbers])
    if results["comparisons"]["chosen"] == results["comparisons"]["common"]:
        rows = [row for row in rows if row[0] == "chosen"]
    return Table(
        "Paired differences at equal forgetting",
        ["settings", "objective", "difference", *titles.values(), "steps"],
        rows,
        "Mean over seeds with its 95 % bootstrap interval; in brackets if the interval contains 0 (no difference is seen)."
        " Settings: chosen for each combiner on development seeds, or common to all.",
    )  # fmt: skip
