"""Drawn pairs of gradients in batches, cached: to draw a pair takes longer than to combine and to judge it.

Searches with the same seed see the same pairs in the same order, whatever the combiner and the statement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import hypothesis
from hypothesis import strategies as st

from retainfirst.theory import strategies
from retainfirst.theory.sums import GradientPair

__all__ = ["Source", "batches", "settings"]

_FIRST = 8
"""The size of the first batch; each further batch is twice as large as the one before."""

_CACHED = 4
"""The number of batches that are cached for each source: 120 pairs."""


@dataclass(frozen=True)
class Source:
    """A kind of pairs to draw.

    Attributes:
        dtype: The gradients' format.
        domain: One of :data:`retainfirst.theory.strategies.DOMAINS`; None: any finite bits.
        long: Whether to draw long arrays instead of short ones.
        seed: The same seed gives the same pairs.
        weights: Alpha and gamma; None: drawn.
        grouped: Whether to draw groups; without, all coordinates are one group.
    """

    dtype: str
    domain: str | None
    long: bool
    seed: int
    weights: tuple[float, float] | None
    grouped: bool

    def pairs(self, batch: int) -> tuple[GradientPair, ...]:
        """Return a batch of pairs by its number, from 0 on. Their arrays are read-only."""
        return _fitted(self, batch) if batch < _CACHED else _fitted.__wrapped__(self, batch)

    def strategy(self) -> st.SearchStrategy[GradientPair]:
        """Return a strategy of the same pairs, for hypothesis to shrink one."""
        return _any_pair(self.dtype, self.domain, self.long).map(self.fit)

    def fit(self, pair: GradientPair) -> GradientPair:
        """Return a pair with this source's weights and groups."""
        alpha, gamma = self.weights or (pair.alpha, pair.gamma)
        return GradientPair(pair.forget, pair.retain, alpha, gamma, pair.groups if self.grouped else ())

    def batch_seed(self, batch: int) -> str:
        """Return the seed of a batch for hypothesis."""
        return f"{self.seed}, batch {batch}"


def batches(most: int) -> Iterator[int]:
    """Yield the numbers of batches that hold at least ``most`` pairs together."""
    batch = drawn = 0
    while drawn < most:
        yield batch
        drawn += _FIRST << batch
        batch += 1


def settings(batch: int, *further: hypothesis.Phase) -> hypothesis.settings:
    """Return the settings to draw a batch with, and with ``Phase.shrink`` to shrink one of its pairs."""
    return hypothesis.settings(
        max_examples=_FIRST << batch,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate, *further],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )


@lru_cache(maxsize=1024)
def _fitted(source: Source, batch: int) -> tuple[GradientPair, ...]:
    draw = _drawn if batch < _CACHED else _drawn.__wrapped__
    return tuple(map(source.fit, draw(source.dtype, source.domain, source.long, source.seed, batch)))


@lru_cache(maxsize=1024)
def _drawn(dtype: str, domain: str | None, long: bool, seed: int, batch: int) -> tuple[GradientPair, ...]:
    found: list[GradientPair] = []

    @hypothesis.seed(f"{seed}, batch {batch}")
    @settings(batch)
    @hypothesis.given(_any_pair(dtype, domain, long))
    def keep(pair: GradientPair) -> None:
        found.append(pair)

    keep()
    return tuple(found)


@st.composite
def _any_pair(draw: st.DrawFn, dtype: str, domain: str | None, long: bool) -> GradientPair:
    pairs = strategies.raw_pairs(dtype, long) if domain is None else strategies.pairs(dtype, [domain], long)
    f, r = draw(pairs)
    for x in (f, r):
        x.flags.writeable = False
    alpha, gamma = draw(strategies.weights())
    return GradientPair(f, r, alpha, gamma, draw(st.one_of(st.just(()), strategies.groupings(len(r)))))
