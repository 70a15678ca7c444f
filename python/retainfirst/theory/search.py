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
from retainfirst.theory.cases import Case, ExactCase, StepCase, StoredCase
from retainfirst.theory.runs import Run
from retainfirst.theory.statements import Statement
from retainfirst.theory.steps import Step, history, take
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
    run: Run | None = None,
    weights: tuple[float, float] | None = None,
    raw: bool = False,
    seed: int = 0,
    name: str = "",
    shrink: bool = True,
) -> Found:
    """Judge a statement on drawn pairs, until one breaks it or enough have met its hypothesis.

    Args:
        statement: The statement.
        combine: Returns the stored update of a pair; None: judge the formula of the statement's combiner, without rounding.
        dtype: The gradients' format.
        max_examples: The number of cases to judge, shared equally among the domains. A domain whose pairs seldom meet the
            hypothesis gives fewer.
        run: The optimiser of a statement about steps; None: the statement's first one.
        weights: Alpha and gamma; None: drawn.
        raw: Draw any finite bits, not only numbers whose dot products cannot overflow.
        seed: The same seed gives the same pairs.
        name: The combiner's name, for the text of a violation.
        shrink: Simplify the pair of a violation, which takes most of the time of a search that finds one.

    Raises:
        MissingDependency: hypothesis is not installed.
        RetainFirstError: The combiner gave two different updates for one pair, or raised it.
    """
    require("hypothesis", "verify")
    from retainfirst.theory import strategies
    from retainfirst.theory.draws import Source

    if run is None and statement.runs:
        run = statement.runs[0]
    one = _Search(statement, combine, run, dtype, raw, name, shrink)
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
    steps: Run | None
    dtype: str
    raw: bool
    name: str
    shrink: bool
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
                    return (self._shrunk(source, batch) if self.shrink else None) or violation
        return None

    def _judge(self, pair: GradientPair) -> StatementViolated | None:
        case = self._case(pair)
        if not self.statement.hypothesis(case):
            return None
        # A pair with a zero gradient is judged but not counted: most combiners do the same with it.
        self.judged += int((pair.forget != 0).any() and (pair.retain != 0).any())
        objection = _not_finite(case, self.raw) or self.statement.objection(case)
        return None if objection is None else _violation(self.statement, case, self.dtype, objection, self.name)

    def _case(self, pair: GradientPair) -> Case:
        if self.combine is None:
            return ExactCase(pair, self.statement.combiner)
        if self.steps is None:
            return StoredCase(pair, self.statement.combiner, self.combine(pair))
        step = take(self.combine, self.steps, history(pair, self.steps.steps))
        return StepCase(pair, self.statement.combiner, step)

    def _shrunk(self, source: Source, batch: int) -> StatementViolated | None:
        import hypothesis

        def check(pair: GradientPair) -> None:
            violation = self._judge(pair)
            if violation is not None:
                raise violation

        try:
            source.shrink(batch, check)
        except StatementViolated as violation:
            return violation
        except hypothesis.errors.Flaky:
            raise self._random() from None
        return None

    def _repeat(self, pair: GradientPair, violation: StatementViolated) -> None:
        """Raise an error if the combiner does not give the same update again, and the optimiser the same step."""
        if self.combine is None or violation.update is None:
            return
        if self.combine(pair).tobytes() != as_array(violation.update).tobytes():
            raise self._random()
        again = self._judge(pair)
        if violation.after is not None and (again is None or str(again) != str(violation)):
            raise RetainFirstError(
                f"{violation.optimizer}: took different steps along the same updates; it must not be random"
            )

    def _random(self) -> RetainFirstError:
        return RetainFirstError(
            f"{self.name}: gave different updates for the same two gradients; it must not be random"
        )


def _not_finite(case: Case, raw: bool) -> str | None:
    """Object to NaN from finite gradients, and to infinity unless raw bits, large weights or steps may overflow."""
    if not isinstance(case, StoredCase) or case.is_finite:
        return None
    if isinstance(case, StepCase) and case.step.run.guard is not None and case.step.run.guard.reads == "retain":
        return None  # this guard takes a step along any update
    # A projection's coefficient is about as large as |f| / |r|. Where it overflows float64, infinity is right.
    if case.pair.sums.retain_square > 0 and case.stretch > 1e300:
        return None
    may_overflow = raw or isinstance(case, StepCase) or max(case.pair.alpha, case.pair.gamma) > 1
    bad = np.isnan(case.update) if may_overflow else ~np.isfinite(case.update)
    if not bad.any():
        return None
    i = int(bad.argmax())
    return f"update[{i}] = {case.update[i]}, though forget and retain are finite"


def _violation(statement: Statement, case: Case, dtype: str, objection: str, name: str) -> StatementViolated:
    pair = case.pair
    update = case.update if isinstance(case, StoredCase) else None
    step = case.step if isinstance(case, StepCase) else None
    by = name or case.combiner
    subject = by if step is None else f"{by} with {step.run.name}"
    lines = [
        f"{statement.id} ({statement.title}) does not hold for {subject} in {dtype}: {objection}",
        f"  forget = {_shown(pair.forget)}",
        f"  retain = {_shown(pair.retain)}",
        *([f"  update = {_shown(update)}"] if update is not None else []),
        *(_lines_of(step) if step is not None else []),
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
        **(_attributes_of(step) if step is not None else {}),
    )


def _lines_of(step: Step) -> list[str]:
    earlier = [
        f"  step {i}: forget = {_shown(pair.forget)}, retain = {_shown(pair.retain)}"
        for i, pair in enumerate(step.earlier, 1)
    ]
    return [f"  before = {_shown(step.before)}", f"  after = {_shown(step.after)}", *earlier]


def _attributes_of(step: Step) -> dict[str, Any]:
    return {
        "optimizer": step.run.name,
        "before": as_tensor(step.before),
        "after": as_tensor(step.after),
        "earlier": [(as_tensor(pair.forget), as_tensor(pair.retain)) for pair in step.earlier],
    }


def _shown(x: NDArray[Any]) -> str:
    values = [float(value) for value in x[:12]]
    return (
        f"{values}" if len(x) <= 12 else f"{values[:-1]} ... ({len(x)} elements; all are in the exception's attributes)"
    )
