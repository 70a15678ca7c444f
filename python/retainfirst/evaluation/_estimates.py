"""A metric's value with a bootstrap interval over rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retainfirst.errors import require

__all__ = ["Estimate", "estimate", "estimate_auc", "estimate_perplexity", "paired_interval"]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """One number of an evaluation.

    Attributes:
        value: The metric.
        low: Lower end of its 95 % bootstrap interval over rows; None if rows do not give one.
        high: Its upper end, likewise.
        n: The number of rows that have a value.
        rows: The rows' values, NaN for a row without one; None for a metric that no single row has.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    rows: tuple[float, ...] | None = None


def estimate(rows: Sequence[float]) -> Estimate:
    """Return the mean of the rows that have a value, with its interval (percentile bootstrap, 2000 resamples, a fixed seed)."""
    values = np.array([value for value in rows if not math.isnan(value)])
    if not len(values):
        return Estimate(math.nan, None, None, 0, tuple(rows))
    low, high = _interval((values,), np.mean)
    return Estimate(float(values.mean()), low, high, len(values), tuple(rows))


def estimate_perplexity(value: float, losses: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """Return a perplexity with its interval over rows, given each row's mean loss and number of tokens."""
    sums = np.array(losses) * np.array(tokens)

    def of(total: Any, count: Any, axis: int = -1) -> Any:
        with np.errstate(over="ignore"):
            return np.exp(total.sum(axis=axis) / count.sum(axis=axis))

    low, high = _interval((sums, np.array(tokens, dtype=float)), of, paired=True)
    return Estimate(value, low, high, len(losses))


def estimate_auc(value: float, forget: Sequence[float], held_out: Sequence[float]) -> Estimate:
    """Return an area under the curve with its interval over the rows of both sets, drawn independently."""
    rank = require("scipy.stats", "eval").rankdata

    def of(one: Any, other: Any, axis: int = -1) -> Any:
        n, m = one.shape[-1], other.shape[-1]
        ranks = rank(np.concatenate([one, other], axis=-1), axis=-1)
        return (ranks[..., n:].sum(axis=axis) - m * (m + 1) / 2) / (n * m)

    low, high = _interval((np.array(forget), np.array(held_out)), of)
    return Estimate(value, low, high, len(forget) + len(held_out))


def paired_interval(left: Sequence[float], right: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean of ``left - right`` over the rows that have both, and its 95 % interval; NaN if no row has."""
    pairs = [a - b for a, b in zip(left, right, strict=True) if not math.isnan(a) and not math.isnan(b)]
    found = estimate(pairs)
    return found.value, found.low, found.high


def _interval(
    samples: tuple[Any, ...], statistic: Callable[..., Any], paired: bool = False
) -> tuple[float | None, float | None]:
    if min(len(sample) for sample in samples) < 2:
        return None, None
    found = require("scipy.stats", "eval").bootstrap(
        samples, statistic, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", paired=paired, vectorized=True,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
