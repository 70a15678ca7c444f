"""The results of the part on attacks: what each attack brings back at equal forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retainfirst_lab.reproduce.attack_claims import Arm, differences, verdicts
from retainfirst_lab.reproduce.attack_design import ATTACKS, AttackCell
from retainfirst_lab.reproduce.attack_runs import recovered
from retainfirst_lab.reproduce.statistics import spread

__all__ = ["attack_results"]

Row = dict[str, Any]

ARM = ("objective", "learning_rate", "guard", "variant")


def attack_results(raw: Mapping[AttackCell, Mapping[str, Any]], target: float) -> dict[str, Any]:
    """Return the part's section of ``results.json``.

    Args:
        raw: The results of the part's finished cells.
        target: The forget accuracy that every run is to reach.

    Returns:
        - ``arms``: for each objective, rate, guard and combiner the number of seeds, and means and standard deviations over those
          that reached the target: of steps, accuracies, recovered shares and moved 4-bit codes.
        - ``differences``: of the recovered shares from plain addition.
        - ``claims``: their verdicts.
        - ``cells``: settings and results of each cell, with its recovered shares (``recovered``).
    """
    rows = [_row(cell, found, target) for cell, found in raw.items()]
    arms: dict[Arm, list[Row]] = {}
    for row in rows:
        objective, rate, guard, variant = (row[name] for name in ARM)
        arms.setdefault((objective, rate, guard, variant), []).append(row)
    shares = {arm: _by_attack(found) for arm, found in arms.items()}
    return {
        "arms": [_summary(arm, found) for arm, found in arms.items()],
        "differences": differences(shares),
        "claims": verdicts(shares),
        "cells": rows,
    }


def _row(cell: AttackCell, found: Mapping[str, Any], target: float) -> Row:
    shares = {attack: recovered(found, attack) for attack in ATTACKS}
    return {**cell.as_dict(), **found, "reached": found["after"]["forget"] <= target, "recovered": shares}


def _by_attack(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """The recovered shares of the runs that reached the target, by attack and seed."""
    reached = {row["seed"]: row["recovered"] for row in rows if row["reached"]}
    return {
        attack: {seed: found[attack] for seed, found in reached.items() if found[attack] is not None}
        for attack in ATTACKS
    }


def _summary(arm: Arm, rows: Sequence[Row]) -> Row:
    reached = [row for row in rows if row["reached"]]
    values: dict[str, list[float]] = {
        "steps": [row["steps"] for row in reached],
        **{name: [row["after"][name] for row in reached] for name in ("forget", "covered")},
        **{attack: list(seeds.values()) for attack, seeds in _by_attack(rows).items()},
        "moved_codes": [row["moved_codes"] for row in reached],
    }
    numbers = {name: spread(found) for name, found in values.items() if found}
    counts = {"runs": len(rows), "reached": len(reached)}
    return {**dict(zip(ARM, arm, strict=True)), **counts, "numbers": numbers}
