"""Drawn pairs of gradients in batches, cached: to draw a pair takes longer than to combine and to judge it.

Searches with the same seed see the same pairs in the same order, whatever the combiner and the statement.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import hypothesis
from hypothesis import configuration
from hypothesis import strategies as st

from retainfirst.theory import strategies
from retainfirst.theory.sums import GradientPair

__all__ = ["Source", "batches"]

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

    def shrink(self, batch: int, check: Callable[[GradientPair], None]) -> None:
        """Draw a batch again and raise the error that ``check`` raises for the simplest pair.

        Return if it raises none: hypothesis may draw other pairs after more modules were imported.
        """
        _run(self, batch, check, hypothesis.Phase.shrink)

    def fit(self, pair: GradientPair) -> GradientPair:
        """Return a pair with this source's weights and groups."""
        alpha, gamma = self.weights or (pair.alpha, pair.gamma)
        return GradientPair(pair.forget, pair.retain, alpha, gamma, pair.groups if self.grouped else ())


def batches(most: int) -> Iterator[int]:
    """Yield the numbers of batches that hold at least ``most`` pairs together."""
    batch = drawn = 0
    while drawn < most:
        yield batch
        drawn += _FIRST << batch
        batch += 1


@lru_cache(maxsize=1024)
def _fitted(source: Source, batch: int) -> tuple[GradientPair, ...]:
    draw = _drawn if batch < _CACHED else _drawn.__wrapped__
    return tuple(map(source.fit, draw(source.dtype, source.domain, source.long, source.seed, batch)))


@lru_cache(maxsize=1024)
def _drawn(dtype: str, domain: str | None, long: bool, seed: int, batch: int) -> tuple[GradientPair, ...]:
    found: list[GradientPair] = []
    _run(Source(dtype, domain, long, seed, weights=None, grouped=True), batch, found.append)
    return tuple(found)


def _run(source: Source, batch: int, check: Callable[[GradientPair], None], *further: hypothesis.Phase) -> None:
    """Let hypothesis draw a batch and call ``check`` with each pair."""

    @hypothesis.seed(f"{source.seed}, batch {batch}")
    @hypothesis.settings(
        max_examples=_FIRST << batch,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate, *further],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(_any_pair(_arrays(source)).map(source.fit))
    def run(pair: GradientPair) -> None:
        check(pair)

    with _files_elsewhere():
        run()


@contextmanager
def _files_elsewhere() -> Iterator[None]:
    """Let hypothesis cache its files in a temporary folder, and not in ``.hypothesis`` in the current one."""
    before: Any = configuration.storage_directory(intent_to_write=False)  # older versions give a path
    configuration.set_hypothesis_home_dir(_scratch_folder().name)
    try:
        yield
    finally:
        configuration.set_hypothesis_home_dir(getattr(before, "path", before))


@cache
def _scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return this process's folder, which is removed at its end."""
    return tempfile.TemporaryDirectory(prefix="retainfirst-hypothesis-")


def _arrays(source: Source) -> st.SearchStrategy[tuple[strategies.Array, strategies.Array]]:
    if source.domain is None:
        return strategies.raw_pairs(source.dtype, source.long)
    return strategies.pairs(source.dtype, [source.domain], source.long)


_WEIGHTS = strategies.weights()


@st.composite
def _any_pair(draw: st.DrawFn, arrays: st.SearchStrategy[tuple[strategies.Array, strategies.Array]]) -> GradientPair:
    f, r = draw(arrays)
    for x in (f, r):
        x.flags.writeable = False
    alpha, gamma = draw(_WEIGHTS)
    return GradientPair(f, r, alpha, gamma, draw(strategies.groupings(len(r))) if draw(st.booleans()) else ())
