"""Comparison at equal forgetting: the state at which a path crosses the target, and the frontier of forgetting and retaining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

__all__ = ["at_forgetting", "frontier", "frontier_area"]

Point = Mapping[str, float]


def at_forgetting(path: Sequence[Point], target: float) -> dict[str, float] | None:
    """Return the state at which a path first crosses the target.

    Every number is interpolated linearly in forget accuracy, between the last point above the target and the first point at or
    below it.

    Args:
        path: Points in order, each with ``forget`` and any other numbers; the first point has no losses or cosines.
        target: A forget accuracy below that of the first point.

    Returns:
        The numbers that both points have, or None if the path never reaches the target.
    """
    for before, after in pairwise(path):
        if after["forget"] <= target < before["forget"]:
            share = (before["forget"] - target) / (before["forget"] - after["forget"])
            both = [name for name in after if name in before]
            return {name: before[name] + share * (after[name] - before[name]) for name in both}
    return None


def frontier(path: Sequence[Point], measure: str) -> list[tuple[float, float]]:
    """Return the Pareto frontier: points that no other beats in both forgetting and ``measure``, most forgotten first."""
    best: list[tuple[float, float]] = []
    for forget, value in sorted((point["forget"], -point[measure]) for point in path):
        if not best or -value > best[-1][1]:
            best.append((forget, -value))
    return best


def frontier_area(path: Sequence[Point], measure: str, target: float) -> float | None:
    """Return the area under the frontier, divided by its width.

    This is the best ``measure`` reached at or below a forget accuracy, averaged over the forget accuracies from the target to the
    start. It is 1 if nothing of the measure is ever lost.

    Args:
        path: Points in order; the first is the target model.
        measure: A measure that the points have.
        target: The forget accuracy at which the area begins.

    Returns:
        A number from 0 to 1, or None if the path never reaches the target.
    """
    crossing = at_forgetting(path, target)
    if crossing is None:
        return None
    start = path[0]["forget"]
    # Points beyond the target count as if at the target, so that all paths are compared over the same range.
    points = frontier([*path, crossing], measure)
    inside = [(max(forget, target), value) for forget, value in points if forget <= start]
    edges = [forget for forget, _ in inside[1:]] + [start]
    area = sum((edge - forget) * value for (forget, value), edge in zip(inside, edges, strict=True))
    return area / (start - target)
