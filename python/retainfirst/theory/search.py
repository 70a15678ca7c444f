"""Search for a pair of gradients that breaks a statement, with hypothesis (extra ``verify``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retainfirst.errors import RetainFirstError, StatementViolated, require
from retainfirst.theory.arrays import as_array, as_tensor
from retainfirst.theory.cases import Case, ExactCase, StoredCase
from retainfirst.theory.statements import Statement
from retainfirst.theory.sums import GradientPair

if TYPE_CHECKING:
    from retainfirst.theory.draws import Source

__all__ = ["Combine", "Found", "search"]

_TRIES = 4
"""How many pairs are drawn at most for each pair to be judged."""

Combine = Callable[[GradientPair], NDArray[Any]]
"""Returns the stored update of a pair, and leaves the pair as it is."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        judged: The number of cases that met the statement's hypothesis, with neither gradient zero.
        violation: The simplest case that breaks the statement, if one was found.
    """

    judged: int
    violation: StatementViolated | None = None


def search(
    statement: Statement,
    combine: Combine | None,
    dtype: str,
    max_examples: int,
    *,
    weights: tuple[float, float] | None = None,
    raw: bool = False,
    seed: int = 0,
    name: str = "",
) -> Found:
    """Judge a statement on drawn pairs, until one breaks it or enough have met its hypothesis.

    Args:
        statement: The statement.
        combine: Returns the stored update of a pair; None: judge the formula of the statement's combiner, without rounding.
        dtype: The gradients' format.
        max_examples: The number of cases to judge, shared equally among the domains. A domain whose pairs seldom meet the
            hypothesis gives fewer.
        weights: Alpha and gamma; None: drawn.
        raw: Draw any finite bits, not only numbers whose dot products cannot overflow.
        seed: The same seed gives the same pairs.
        name: The combiner's name, for the text of a violation.

    Raises:
        MissingDependency: hypothesis is not installed.
        RetainFirstError: The combiner gave two different updates for one pair, or raised it.
    """
    require("hypothesis", "verify")
    from retainfirst.theory import strategies
    from retainfirst.theory.draws import Source

    one = _Search(statement, combine, dtype, raw, name)
    domains = (None,) if raw else statement.domains or strategies.DOMAINS
    # Short arrays first: a violation that they show is easier to read.
    for long, share in ((False, 0.75), (True, 0.25)):
        for domain in domains:
            source = Source(dtype, domain, long, seed, weights, statement.grouped)
            violation = one.run(source, math.ceil(max_examples * share / len(domains)))
            if violation is not None:
                return Found(one.judged, violation)
    return Found(one.judged)


@dataclass
class _Search:
    """A search over several sources, and the number of cases that it has judged."""

    statement: Statement
    combine: Combine | None
    dtype: str
    raw: bool
    name: str
    judged: int = field(default=0, init=False)

    def run(self, source: Source, max_examples: int) -> StatementViolated | None:
        """Judge pairs of one source, and return the simplest violation."""
        from retainfirst.theory.draws import batches

        enough = self.judged + max_examples
        for batch in batches(_TRIES * max_examples):
            for pair in source.pairs(batch):
                if self.judged >= enough:
                    return None
                violation = self._judge(pair)
                if violation is not None:
                    self._repeat(pair, violation)
                    return self._shrunk(source, batch) or violation
        return None

    def _judge(self, pair: GradientPair) -> StatementViolated | None:
        if self.combine is None:
            case: Case = ExactCase(pair, self.statement.combiner)
        else:
            case = StoredCase(pair, self.statement.combiner, self.combine(pair))
        if not self.statement.hypothesis(case):
            return None
        # A pair with a zero gradient is judged but not counted: most combiners do the same with it.
        self.judged += int((pair.forget != 0).any() and (pair.retain != 0).any())
        objection = _not_finite(case, self.raw) or self.statement.objection(case)
        return None if objection is None else _violation(self.statement, case, self.dtype, objection, self.name)

    def _shrunk(self, source: Source, batch: int) -> StatementViolated | None:
        """Let hypothesis draw the batch again, find its violation and shrink it."""
        import hypothesis

        from retainfirst.theory.draws import settings

        @hypothesis.seed(source.batch_seed(batch))
        @settings(batch, hypothesis.Phase.shrink)
        @hypothesis.given(source.strategy())
        def check(pair: GradientPair) -> None:
            violation = self._judge(pair)
            if violation is not None:
                raise violation

        try:
            check()
        except StatementViolated as violation:
            return violation
        except hypothesis.errors.Flaky:
            raise self._random() from None
        return None  # hypothesis drew other pairs this time

    def _repeat(self, pair: GradientPair, violation: StatementViolated) -> None:
        """Raise an error if the combiner does not give the same update again."""
        if self.combine is None or violation.update is None:
            return
        if self.combine(pair).tobytes() != as_array(violation.update).tobytes():
            raise self._random()

    def _random(self) -> RetainFirstError:
        return RetainFirstError(
            f"{self.name}: gave different updates for the same two gradients; it must not be random"
        )


def _not_finite(case: Case, raw: bool) -> str | None:
    """Object to NaN from finite gradients, and to infinity unless raw bits or large weights may overflow."""
    if not isinstance(case, StoredCase) or case.is_finite:
        return None
    # A projection's coefficient is about as large as |f| / |r|. Where it overflows float64, infinity is right.
    if case.pair.sums.retain_square > 0 and case.stretch > 1e300:
        return None
    may_overflow = raw or max(case.pair.alpha, case.pair.gamma) > 1
    bad = np.isnan(case.update) if may_overflow else ~np.isfinite(case.update)
    if not bad.any():
        return None
    i = int(bad.argmax())
    return f"update[{i}] = {case.update[i]}, though forget and retain are finite"


def _violation(statement: Statement, case: Case, dtype: str, objection: str, name: str) -> StatementViolated:
    pair = case.pair
    update = case.update if isinstance(case, StoredCase) else None
    lines = [
        f"{statement.id} ({statement.title}) does not hold for {name or case.combiner} in {dtype}: {objection}",
        f"  forget = {_shown(pair.forget)}",
        f"  retain = {_shown(pair.retain)}",
        *([f"  update = {_shown(update)}"] if update is not None else []),
        f"  alpha = {pair.alpha}, gamma = {pair.gamma}"
        + (f", groups = {list(pair.groups)}" if len(pair.groups) > 1 else ""),
    ]
    return StatementViolated(
        "\n".join(lines),
        statement=statement.id,
        forget=as_tensor(pair.forget),
        retain=as_tensor(pair.retain),
        update=None if update is None else as_tensor(update),
        alpha=pair.alpha,
        gamma=pair.gamma,
        groups=pair.groups if len(pair.groups) > 1 else (),
    )


def _shown(x: NDArray[Any]) -> str:
    values = [float(value) for value in x[:12]]
    return (
        f"{values}" if len(x) <= 12 else f"{values[:-1]} ... ({len(x)} elements; all are in the exception's attributes)"
    )
