"""The results of the part on the guard: each arm at equal forgetting, and at equal steps as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from retainfirst_lab.reproduce.guard_claim import RETAINED, claim, leads
from retainfirst_lab.reproduce.guard_design import COMMON_RATES, EQUAL_STEPS, Arm
from retainfirst_lab.reproduce.results import NUMBERS, Entry, best
from retainfirst_lab.reproduce.statistics import paired_difference, spread

__all__ = ["ARM", "at_steps", "at_target", "guard_results"]

ARM = ("objective", "variant", "optimizer", "guard")
"""The names of an arm's parts, in an entry."""

READ = ("covered", "held_out", "unrelated", "forget_paraphrased", "steps", "regained")

Numbers = dict[str, float]
BySeed = dict[Arm, dict[int, Numbers]]


def guard_results(entries: Sequence[Entry], development_seeds: Collection[int]) -> dict[str, Any]:
    """Return the part's section of ``results.json``.

    Args:
        entries: The entries of the part's cells.
        development_seeds: The seeds that rates are chosen on; empty: none are chosen.

    Returns:
        - ``chosen``: the rate of each arm that is best on the development seeds.
        - ``compared``: by the way of comparing (``common``: one rate for all arms of an optimiser; ``chosen``: the chosen rates;
          ``equal_steps``), the ``arms`` with means and standard deviations, the differences that the ``guard`` makes, SAGO's
          ``leads`` over PCGrad, and the ``claim`` with its verdict.
        - ``cells``: the entries.
    """
    report = [one for one in entries if one["seed"] not in development_seeds]
    development = [one for one in entries if one["seed"] in development_seeds]
    chosen = {arm: best(_by_rate(cells)) for arm, cells in _by_arm(development).items()}
    ways: dict[str, BySeed] = {"common": _at_rates(report, lambda one: COMMON_RATES[one["optimizer"]])}
    if chosen:
        ways["chosen"] = _at_rates(report, lambda one: chosen.get(_arm(one)))
    ways["equal_steps"] = {arm: _at_equal_steps(cells) for arm, cells in _by_arm(report).items()}
    return {
        "steps": EQUAL_STEPS,
        "common_rates": COMMON_RATES,
        "chosen": [{**dict(zip(ARM, arm, strict=True)), "learning_rate": rate} for arm, rate in chosen.items()],
        "compared": {
            way: {
                "arms": _summary(found, report),
                "guard": _guard_differences(found),
                "leads": leads(found),
                "claim": claim(found),
            }
            for way, found in ways.items()
        },
        "cells": [{"role": "report", **one} for one in report]
        + [{"role": "development", **one} for one in development],
    }  # fmt: skip


def at_target(one: Entry) -> Numbers:
    """Return the numbers of a cell at the forget target, those that it has.

    ``retained`` is the mean of covered and held-out accuracy. ``opposing`` is the share of the path's steps that oppose
    retention.
    """
    found = {name: NUMBERS[name](one) for name in READ}
    found[RETAINED] = (found["covered"] + found["held_out"]) / 2
    found["opposing"] = fmean(point["step_opposes_retain"] for point in one["path"][1:])
    return {name: value for name, value in found.items() if value is not None}


def at_steps(found: Sequence[Numbers], steps: float) -> Numbers | None:
    """Return the numbers of an arm whose rate makes it reach the target in so many steps.

    They are interpolated linearly in the logarithm of the steps, between the cells of two rates of one seed.

    Args:
        found: The numbers of one seed at the target, one for each rate that reaches it.
        steps: The steps to the target.

    Returns:
        The numbers that both cells have; None if no two cells have the steps between them.
    """
    for fewer, more in pairwise(sorted(found, key=lambda one: one["steps"])):
        if fewer["steps"] <= steps <= more["steps"] and fewer["steps"] < more["steps"]:
            share = math.log(steps / fewer["steps"]) / math.log(more["steps"] / fewer["steps"])
            numbers = {name: value + share * (more[name] - value) for name, value in fewer.items() if name in more}
            return {**numbers, "steps": steps}
    return None


def _arm(one: Entry) -> Arm:
    objective, variant, optimizer, guard = (one[name] for name in ARM)
    return objective, variant, optimizer, guard


def _by_arm(entries: Iterable[Entry]) -> dict[Arm, list[Entry]]:
    arms: dict[Arm, list[Entry]] = {}
    for one in entries:
        arms.setdefault(_arm(one), []).append(one)
    return arms


def _by_rate(cells: Iterable[Entry]) -> dict[float, list[Entry]]:
    rates: dict[float, list[Entry]] = {}
    for one in cells:
        rates.setdefault(one["learning_rate"], []).append(one)
    return rates


def _at_rates(report: Iterable[Entry], rate: Callable[[Entry], float | None]) -> BySeed:
    arms: BySeed = {}
    for one in report:
        if one["reached"] and one["learning_rate"] == rate(one):
            arms.setdefault(_arm(one), {})[one["seed"]] = at_target(one)
    return arms


def _at_equal_steps(cells: Iterable[Entry]) -> dict[int, Numbers]:
    seeds: dict[int, list[Numbers]] = {}
    for one in cells:
        if one["reached"]:
            seeds.setdefault(one["seed"], []).append(at_target(one))
    found = {seed: at_steps(numbers, EQUAL_STEPS) for seed, numbers in seeds.items()}
    return {seed: numbers for seed, numbers in found.items() if numbers is not None}


def _summary(arms: Mapping[Arm, Mapping[int, Numbers]], report: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row for each arm: the number of seeds, and how many of them can be compared."""
    rows = []
    for arm, cells in _by_arm(report).items():
        seeds = arms.get(arm, {})
        names = dict.fromkeys(name for numbers in seeds.values() for name in numbers)
        numbers = {name: spread([found[name] for found in seeds.values() if name in found]) for name in names}
        counts = {"runs": len({one["seed"] for one in cells}), "reached": len(seeds)}
        rows.append({**dict(zip(ARM, arm, strict=True)), **counts, "numbers": numbers})
    return rows


def _guard_differences(arms: Mapping[Arm, Mapping[int, Numbers]]) -> list[dict[str, Any]]:
    """What the guard changes, paired by seed: with it minus without it."""
    rows = []
    for (objective, variant, optimizer, guard), seeds in arms.items():
        if guard == "enforce":
            without = arms.get((objective, variant, optimizer, "off"), {})
            for measure in ("covered", "held_out", RETAINED, "steps", "regained"):
                sides = [
                    {seed: found[measure] for seed, found in side.items() if measure in found}
                    for side in (seeds, without)
                ]
                difference = paired_difference(*sides)
                if difference is not None:
                    row = {"objective": objective, "variant": variant, "optimizer": optimizer, "measure": measure}
                    rows.append(row | difference.as_dict())
    return rows
