"""The claims on attacks, and the rule of their verdicts.

The claims and when each holds were fixed before the first run. Every objective, rate and guard is judged by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from retainfirst_lab.reproduce.attack_design import ATTACKS
from retainfirst_lab.reproduce.statistics import Difference, paired_difference

__all__ = ["CLAIMS", "RULE", "differences", "verdicts"]

CLAIMS = {
    "Q4": "after 4-bit quantisation (round to nearest, one scale a channel), more of the forget accuracy is back with SAGO than"
    " with plain addition, because SAGO zeroes the coordinates in conflict, so that its model stays nearer to the one before",
    "Q8": "after 8-bit quantisation nothing is back, with any rule",
    "R": "relearning on some forget facts brings more of the others back with SAGO than with plain addition",
}

RULE = (
    "Q4 and R hold if the 95 % bootstrap interval of the paired difference over seeds lies above 0, fail if it lies below 0, and"
    " are not seen if it contains 0. Q8 holds if the interval of every recovered share has its ends within 0.05 of 0, and fails"
    " otherwise. With one seed the value itself decides."
)

EIGHT_BITS = ("8 bits", "8 bits, groups")
COMPARED = {"Q4": "4 bits", "R": "relearning"}
NEAR = 0.05

Settings = tuple[str, float, str]
"""Objective, learning rate and guard."""

Arm = tuple[str, float, str, str]
"""Settings and combiner."""

Shares = Mapping[Arm, Mapping[str, Mapping[int, float]]]
"""The recovered shares of each arm by attack and seed."""


def differences(shares: Shares) -> list[dict[str, Any]]:
    """Return, for each rule and attack, the recovered share minus that of plain addition, paired by seed."""
    rows = []
    for arm, by_attack in shares.items():
        base = shares.get((*arm[:3], "sum"))
        if base is not None and arm[3] != "sum":
            for attack in ATTACKS:
                found = paired_difference(by_attack[attack], base[attack])
                if found is not None:
                    rows.append({**_named(arm[:3]), "variant": arm[3], "measure": attack, **found.as_dict()})
    return rows


def verdicts(shares: Shares) -> list[dict[str, Any]]:
    """Return the verdict on each claim for each objective, rate and guard that was run.

    Returns:
        Rows with ``claim``, ``verdict`` (``"holds"``, ``"fails"`` or ``"not seen"``), and what it rests on: for Q4 and R the
        paired difference, for Q8 the share whose interval reaches farthest from 0.
    """
    rows = []
    for settings in dict.fromkeys(arm[:3] for arm in shares):
        for claim, found, verdict in _judged(shares, settings):
            rows.append({"claim": claim, **_named(settings), "verdict": verdict, **_values(found)})
    return sorted(rows, key=lambda row: list(CLAIMS).index(row["claim"]))


def _judged(shares: Shares, settings: Settings) -> Iterator[tuple[str, Difference, str]]:
    sago, plain = (shares.get((*settings, variant), {}) for variant in ("sago", "sum"))
    for claim, attack in COMPARED.items():
        found = paired_difference(sago.get(attack, {}), plain.get(attack, {}))
        if found is not None:
            yield claim, found, {"higher": "holds", "lower": "fails"}.get(found.verdict, "not seen")
    farthest = _farthest(by_attack for arm, by_attack in shares.items() if arm[:3] == settings)
    if farthest is not None:
        yield "Q8", farthest, "holds" if _reach(farthest) <= NEAR else "fails"


def _farthest(arms: Iterable[Mapping[str, Mapping[int, float]]]) -> Difference | None:
    """The 8-bit share, over the rules, whose interval reaches farthest from 0."""
    seeds = [by_attack[attack] for by_attack in arms for attack in EIGHT_BITS]
    found = [paired_difference(values, dict.fromkeys(values, 0.0)) for values in seeds]
    return max((one for one in found if one is not None), key=_reach, default=None)


def _reach(share: Difference) -> float:
    ends: Sequence[float | None] = (share.mean, share.low, share.high)
    return max(abs(end) for end in ends if end is not None)


def _named(settings: Settings) -> dict[str, Any]:
    return dict(zip(("objective", "learning_rate", "guard"), settings, strict=True))


def _values(found: Difference) -> dict[str, Any]:
    return {name: value for name, value in found.as_dict().items() if name != "verdict"}
