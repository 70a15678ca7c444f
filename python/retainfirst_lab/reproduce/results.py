"""The results of finished cells at equal forgetting, and their comparisons, as in ``results.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from retainfirst_lab.reproduce.design import VARIANTS, Cell, Method, Settings
from retainfirst_lab.reproduce.matched import at_forgetting, frontier_area
from retainfirst_lab.reproduce.statistics import paired_difference, spread
from retainfirst_lab.reproduce.testbed import MEASURES

__all__ = ["NUMBERS", "Entry", "best", "choose", "compare", "entry", "summarise"]

RETAIN = MEASURES[2:]
COSINES = ("cos_forget_retain", "cos_update_retain", "cos_update_forget")

Entry = dict[str, Any]
AnySettings = TypeVar("AnySettings")


def entry(cell: Cell, raw: Mapping[str, Any], target: float, naive: Mapping[str, Any] | None) -> Entry:
    """Return a cell's entry in ``results.json``.

    Args:
        cell: Its settings.
        raw: The result of :func:`~retainfirst_lab.reproduce.path.run_cell`.
        target: The forget accuracy at which results are compared.
        naive: The result of the plain-addition cell with the same weights, for the cosines on the same states; None if absent.

    Returns:
        Accuracies, steps and seconds interpolated at the target; of a cell that never reached it (``reached`` is false), those of
        its last point. ``recovery`` is the covered retain accuracy divided by that of the target model (None if that is 0).
    """
    path = raw["path"]
    crossing = at_forgetting(path, target)
    point, start = crossing or path[-1], path[0]
    retain = {name: point.get(name) for name in RETAIN}
    recoveries = {name: value / start[name] for name, value in retain.items() if value is not None and start[name] > 0}
    states = (naive or {}).get("same_state") or []
    seen = raw["same_state"]
    own = {name: _mean(step.get(name) for step in path[1:]) for name in COSINES}
    return {
        **cell.as_dict(),
        "combiner": VARIANTS[cell.variant].name,
        "scope": VARIANTS[cell.variant].scope,
        "alpha": cell.alpha,
        "reached": crossing is not None,
        "forget_accuracy": point["forget"],
        "forget_paraphrased_accuracy": point.get("forget_paraphrased"),
        "retain_accuracy": retain,
        "recovery": recoveries.get("covered"),
        "recoveries": recoveries,
        "frontier_area": {name: frontier_area(path, name, target) for name in RETAIN if name in start},
        "cosines": {"same_state": _same_state(states, cell.variant), "own_path": own},
        "agreement_bound": _mean(state["agreement_bound"] for state in states),
        "steps": point["step"],
        "seconds": point["seconds"],
        "relearning": raw["relearning"],
        "lm_eval": raw["lm_eval"],
        "path": path,
        "states": [
            {"step": at["step"], **{label: found[COSINES[1]] for label, found in at["variants"].items()}} for at in seen
        ],
    }


def _same_state(states: Sequence[Mapping[str, Any]], variant: str) -> dict[str, float | None] | None:
    if not states:
        return None
    found = {name: _mean(state["variants"][variant][name] for state in states) for name in COSINES[1:]}
    return {COSINES[0]: _mean(state[COSINES[0]] for state in states), **found}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def choose(entries: Sequence[Entry]) -> dict[Method, Settings]:
    """Choose settings for each method by its cells on the development seeds; see :func:`best`."""
    by_method: dict[Method, dict[Settings, list[Entry]]] = {}
    for one in entries:
        method = (one["testbed"], one["objective"], one["variant"])
        by_method.setdefault(method, {}).setdefault((one["gamma"], one["learning_rate"]), []).append(one)
    return {method: best(found) for method, found in by_method.items()}


def best(found: Mapping[AnySettings, list[Entry]]) -> AnySettings:
    """Return the best settings by their cells, one for each seed.

    Among the settings that reach the target on every seed, the choice is the highest mean of covered and held-out retain accuracy
    at the target; among equals, the fewest steps. If no settings reach it on every seed, the choice is among those that reach it
    on the most seeds: the lowest forget accuracy.
    """

    def merit(cells: list[Entry]) -> tuple[float, ...]:
        reached = sum(one["reached"] for one in cells)
        if reached < len(cells):
            return reached - len(cells), -fmean(one["forget_accuracy"] for one in cells)
        retained = fmean((one["retain_accuracy"]["covered"] + one["retain_accuracy"]["held_out"]) / 2 for one in cells)
        return 0, retained, -fmean(one["steps"] for one in cells)

    return max(found, key=lambda settings: merit(found[settings]))


NUMBERS: Mapping[str, Any] = {
    "covered": lambda one: one["retain_accuracy"]["covered"],
    "held_out": lambda one: one["retain_accuracy"]["held_out"],
    "unrelated": lambda one: one["retain_accuracy"]["unrelated"],
    "forget_paraphrased": lambda one: one["forget_paraphrased_accuracy"],
    "recovery": lambda one: one["recovery"],
    "frontier_area": lambda one: one["frontier_area"].get("covered"),
    "frontier_area_held_out": lambda one: one["frontier_area"].get("held_out"),
    "steps": lambda one: one["steps"],
    "seconds": lambda one: one["seconds"],
    "regained": lambda one: one["relearning"]["regained"],
    "cos_forget_retain": lambda one: (one["cosines"]["same_state"] or {}).get("cos_forget_retain"),
    "cos_update_retain": lambda one: (one["cosines"]["same_state"] or {}).get("cos_update_retain"),
    "cos_update_forget": lambda one: (one["cosines"]["same_state"] or {}).get("cos_update_forget"),
    "own_cos_forget_retain": lambda one: one["cosines"]["own_path"]["cos_forget_retain"],
    "own_cos_update_retain": lambda one: one["cosines"]["own_path"]["cos_update_retain"],
    "own_cos_update_forget": lambda one: one["cosines"]["own_path"]["cos_update_forget"],
}
"""Numbers of a cell that are averaged and compared over seeds, by name."""

COMPARED = ("covered", "held_out", "unrelated", "frontier_area", "steps", "cos_update_retain", "cos_update_forget")
PAIRS = (
    ("pcgrad", "sum"),
    ("sago", "sum"),
    ("sago", "pcgrad"),
    ("sago_keep_retain", "pcgrad"),
    ("sago_keep_retain", "sago"),
    ("sago", "blur"),
    ("pcgrad_module", "pcgrad_global"),
    ("pcgrad", "pcgrad_global"),
)
"""The comparisons: each first combiner with its second."""


def _reached(entries: Iterable[Entry]) -> list[Entry]:
    """The cells that may be compared: the others have forgotten less."""
    return [one for one in entries if one["reached"]]


def summarise(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return one row for each method and settings: mean and standard deviation over the seeds that reached the target."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for one in entries:
        key = tuple(one[name] for name in ("testbed", "objective", "variant", "gamma", "learning_rate"))
        groups.setdefault(key, []).append(one)
    rows = []
    for key, cells in groups.items():
        row = dict(zip(("testbed", "objective", "variant", "gamma", "learning_rate"), key, strict=True))
        reached = _reached(cells)
        numbers = {}
        for name, read in NUMBERS.items():
            values = [value for value in map(read, reached) if value is not None]
            if values:
                numbers[name] = spread(values)
        relearned = [one["relearning"]["steps"] for one in reached]
        rows.append(
            {
                **row,
                "runs": len(cells),
                "reached": len(reached),
                "least_forget_accuracy": min(one["forget_accuracy"] for one in cells),
                "relearned": sum(steps is not None for steps in relearned),
                "numbers": numbers,
            }
        )
    return rows


def compare(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the paired differences between combiners, over the seeds on which both reached the target.

    Args:
        entries: At most one cell for each test bed, objective, variant and seed.
    """
    by_variant: dict[tuple[str, str], dict[str, dict[int, Entry]]] = {}
    for one in _reached(entries):
        by_variant.setdefault((one["testbed"], one["objective"]), {}).setdefault(one["variant"], {})[one["seed"]] = one
    rows = []
    for (testbed, objective), variants in by_variant.items():
        for left, right in PAIRS:
            for name in COMPARED:
                sides = [_by_seed(variants.get(label, {}), name) for label in (left, right)]
                difference = paired_difference(*sides)
                if difference is not None:
                    row = {"testbed": testbed, "objective": objective, "variant": left, "than": right, "measure": name}
                    rows.append(row | difference.as_dict())
    return rows


def _by_seed(cells: Mapping[int, Entry], name: str) -> dict[int, float]:
    values = {seed: NUMBERS[name](one) for seed, one in cells.items()}
    return {seed: value for seed, value in values.items() if value is not None}
