"""The claim under test, and the rule of its verdict; both were fixed before the run.

SAGO's *lead* is its retained accuracy minus PCGrad's, paired by seed. Retained accuracy is the mean of the covered and the
held-out accuracy. The lead with AdamW and no guard is compared with the lead on two *routes*: with SGD and no guard, and with
AdamW and the guard on both rules. *Mostly* means that more than half of the lead goes: the margin is half the lead with AdamW
minus the lead on the route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retainfirst_lab.reproduce.guard_design import Arm
from retainfirst_lab.reproduce.statistics import paired_difference

__all__ = ["CLAIM", "RETAINED", "ROUTES", "RULE", "claim", "lead", "leads", "overall"]

CLAIM = (
    "SAGO's lead over PCGrad with AdamW is mostly that its guarantee survives preconditioning: with SGD, or with the guard on"
    " both, the lead shrinks."
)

RULE = (
    "A row holds if the 95 % interval of the margin (half the lead with AdamW minus the lead on the route) is above 0, fails if"
    " it is below 0, and is undecided if it contains 0. A row without a lead with AdamW (its interval is not above 0) has"
    " nothing to explain and does not count. The claim holds for an objective if all rows that count hold, fails if one of them"
    " fails, and is undecided otherwise. With one seed the sign decides."
)

RETAINED = "retained"
"""The measure that the claim is judged by."""

MEASURES = (RETAINED, "covered", "held_out", "steps")

BASE = ("adamw", "off")
ROUTES = (("sgd", "off"), ("adamw", "enforce"))
"""Optimiser and guard: without preconditioning, and with the guarantee put back on both rules."""

NO_LEAD = "no lead to explain"

Seeds = dict[int, float]
BySeed = Mapping[Arm, Mapping[int, Mapping[str, float]]]


def lead(arms: BySeed, objective: str, side: tuple[str, str], measure: str = RETAINED) -> Seeds:
    """Return SAGO's lead over PCGrad by seed.

    Args:
        arms: Numbers by arm and seed.
        objective: The forget objective.
        side: Optimiser and guard, the same for both rules.
        measure: A number of the arms.
    """
    sago, pcgrad = (arms.get((objective, variant, *side), {}) for variant in ("sago", "pcgrad"))
    return {seed: sago[seed][measure] - pcgrad[seed][measure] for seed in sago if seed in pcgrad}


def leads(arms: BySeed) -> list[dict[str, Any]]:
    """Return SAGO's lead over PCGrad for each objective, optimiser and guard, with its interval."""
    rows = []
    for objective, optimizer, guard in dict.fromkeys((arm[0], *arm[2:]) for arm in arms):
        for measure in MEASURES:
            found = lead(arms, objective, (optimizer, guard), measure)
            difference = paired_difference(found, dict.fromkeys(found, 0.0))
            if difference is not None:
                row = {"objective": objective, "optimizer": optimizer, "guard": guard, "measure": measure}
                rows.append(row | difference.as_dict())
    return rows


def claim(arms: BySeed) -> list[dict[str, Any]]:
    """Return the verdict on each objective and route, over the seeds that have all four arms.

    Returns:
        Rows with the means ``lead`` and ``lead_on_route``; the paired differences ``shrinks`` (by how much the lead is smaller on
        the route) and ``margin``; and ``verdict``: ``"holds"``, ``"fails"``, ``"undecided"`` or ``"no lead to explain"``.
    """
    rows = []
    for objective in dict.fromkeys(arm[0] for arm in arms):
        for optimizer, guard in ROUTES:
            base, route = lead(arms, objective, BASE), lead(arms, objective, (optimizer, guard))
            seeds = sorted(base.keys() & route.keys())
            if seeds:
                sides = {seed: base[seed] for seed in seeds}, {seed: route[seed] for seed in seeds}
                rows.append({"objective": objective, "optimizer": optimizer, "guard": guard, **_judged(*sides)})
    return rows


def _judged(base: Seeds, route: Seeds) -> dict[str, Any]:
    zero = dict.fromkeys(base, 0.0)
    half = {seed: value / 2 for seed, value in base.items()}
    sides = {"lead": (base, zero), "lead_on_route": (route, zero), "shrinks": (base, route), "margin": (half, route)}
    found = {name: difference.as_dict() for name, pair in sides.items() if (difference := paired_difference(*pair))}
    verdict = {"higher": "holds", "lower": "fails"}.get(found["margin"]["verdict"], "undecided")
    return {**found, "verdict": verdict if found["lead"]["verdict"] == "higher" else NO_LEAD}


def overall(verdicts: Iterable[str]) -> str:
    """Return the verdict on the claim from those of its rows, by :data:`RULE`."""
    counted = [verdict for verdict in verdicts if verdict != NO_LEAD]
    if "fails" in counted:
        return "fails"
    return "holds" if counted and set(counted) == {"holds"} else "undecided"
