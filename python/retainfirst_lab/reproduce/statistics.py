"""Means, standard deviations, and paired differences over seeds with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retainfirst.errors import require

__all__ = ["Difference", "mean_and_spread", "paired_difference", "spread"]

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds.

    Attributes:
        mean: The mean of the differences.
        low: Lower end of the bootstrap interval; None with fewer than two seeds.
        high: Its upper end.
        n: The number of seeds that both sides have.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def verdict(self) -> str:
        """``"higher"`` or ``"lower"`` if the interval leaves out 0, else ``"no difference seen"``. One seed: by its sign."""
        if self.mean == 0 or (self.low is not None and self.high is not None and self.low <= 0 <= self.high):
            return "no difference seen"
        return "higher" if self.mean > 0 else "lower"

    def as_dict(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        return {**asdict(self), "verdict": self.verdict}


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation of a sample (None for a single value).

    Args:
        values: At least one number.
    """
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean, the standard deviation (None for a single value) and the number of values, for JSON.

    Args:
        values: At least one number.
    """
    mean, deviation = mean_and_spread(values)
    return {"mean": mean, "sd": deviation, "n": len(values)}


def paired_difference(left: Mapping[int, float], right: Mapping[int, float]) -> Difference | None:
    """Return ``left - right`` over the seeds that both have.

    The interval is the 95 % percentile bootstrap of the mean over seeds (10,000 resamples, a fixed seed). With few seeds it is
    somewhat too narrow.

    Args:
        left: Numbers by seed.
        right: The numbers that they are compared with, by seed.

    Returns:
        The difference, or None if no seed is in both.

    Raises:
        MissingDependency: scipy is not installed (extra ``eval``).
    """
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return None
    differences = np.array([left[seed] - right[seed] for seed in seeds])
    if len(seeds) == 1:
        return Difference(float(differences[0]), None, None, 1)
    found = require("scipy.stats", "eval").bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(0)
    )  # fmt: skip
    low, high = found.confidence_interval
    return Difference(float(differences.mean()), float(low), float(high), len(seeds))
