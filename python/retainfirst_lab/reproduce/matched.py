"""Comparison at equal forgetting: where a path crosses the target, and the frontier between forgetting and retaining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

__all__ = ["at_forgetting", "frontier", "frontier_area"]

Point = Mapping[str, float]


def at_forgetting(path: Sequence[Point], target: float) -> dict[str, float] | None:
    """Return the state where a path first has the target's forget accuracy.

    Every number is interpolated linearly in forget accuracy, between the last point above the target and the first one at or
    below it.

    Args:
        path: Points in order, each with ``forget`` and any other numbers; the first one has no losses or cosines.
        target: Forget accuracy, below that of the first point.

    Returns:
        The numbers that both points have, or None if the path never gets there.
    """
    for before, after in pairwise(path):
        if after["forget"] <= target < before["forget"]:
            share = (before["forget"] - target) / (before["forget"] - after["forget"])
            both = [name for name in after if name in before]
            return {name: before[name] + share * (after[name] - before[name]) for name in both}
    return None


def frontier(path: Sequence[Point], measure: str) -> list[tuple[float, float]]:
    """Return the points that no other point beats in both forgetting and ``measure``, from most to least forgotten."""
    best: list[tuple[float, float]] = []
    for forget, value in sorted((point["forget"], -point[measure]) for point in path):
        if not best or -value > best[-1][1]:
            best.append((forget, -value))
    return best


def frontier_area(path: Sequence[Point], measure: str, target: float) -> float | None:
    """Return the mean, over forget accuracies from the target to the start, of the best ``measure`` reached at or below each.

    It is the area under the frontier divided by its width: 1 if nothing of the measure is ever lost.

    Args:
        path: Points in order, from the target model on.
        measure: A measure that the points have.
        target: Forget accuracy where the area begins.

    Returns:
        From 0 to 1, or None if the path never gets to the target.
    """
    crossing = at_forgetting(path, target)
    if crossing is None:
        return None
    start = path[0]["forget"]
    # What lies beyond the target counts as if it lay there: all paths are compared over the same range.
    points = frontier([*path, crossing], measure)
    inside = [(max(forget, target), value) for forget, value in points if forget <= start]
    edges = [forget for forget, _ in inside[1:]] + [start]
    area = sum((edge - forget) * value for (forget, value), edge in zip(inside, edges, strict=True))
    return area / (start - target)
