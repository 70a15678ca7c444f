"""Looking for a pair of gradients that breaks a statement, with hypothesis (extra ``verify``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from retainfirst.errors import RetainFirstError, StatementViolated, require
from retainfirst.theory.arrays import as_tensor
from retainfirst.theory.judges import Exact, Judge, Stored
from retainfirst.theory.statements import Statement
from retainfirst.theory.sums import Pair

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["Combine", "Found", "search"]

Combine = Callable[[Pair], NDArray[Any]]
"""Makes the stored update of a pair."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        judged: Cases that met the statement's hypothesis.
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
    """Judge a statement on drawn pairs until one breaks it or enough have met its hypothesis.

    Args:
        statement: What to judge.
        combine: Makes the stored update of a pair; None: the statement's rule is judged without any rounding.
        dtype: The gradients' format.
        max_examples: How many cases to judge; fewer are, if the hypothesis is met too seldom.
        weights: Alpha and gamma; None: drawn.
        raw: Draw any finite bits, not only numbers whose dot products cannot overflow.
        seed: The same seed gives the same pairs.
        name: The combiner's name, for the text of a violation.

    Raises:
        MissingDependency: hypothesis is not installed.
        RetainFirstError: The combiner gave two updates for one pair, or raised it.
    """
    require("hypothesis", "verify")
    judged = 0
    # Short arrays first: what shows there is found there, and shrinks to something that can be read.
    for long, share in ((False, 0.75), (True, 0.25)):
        cases = _cases(statement, dtype, weights, raw, long)
        found = _search(statement, combine, dtype, math.ceil(max_examples * share), cases, seed, name)
        judged += found.judged
        if found.violation is not None:
            return Found(judged, found.violation)
    return Found(judged)


def _search(
    statement: Statement,
    combine: Combine | None,
    dtype: str,
    max_examples: int,
    cases: SearchStrategy[Pair],
    seed: int,
    name: str,
) -> Found:
    import hypothesis

    judged = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max_examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(cases)
    def check(pair: Pair) -> None:
        nonlocal judged
        judge: Judge = Exact(pair, statement.rule) if combine is None else Stored(pair, statement.rule, combine(pair))
        hypothesis.assume(statement.hypothesis(judge))
        judged += 1
        objection = statement.objection(judge)
        if objection is not None:
            raise _violation(statement, judge, dtype, objection, name)

    try:
        check()
    except StatementViolated as violation:
        return Found(judged, violation)
    except hypothesis.errors.Unsatisfiable:
        pass  # no case met the hypothesis
    except hypothesis.errors.Flaky as error:
        raise RetainFirstError(
            f"{name}: gave different updates for the same two gradients; it must not be random"
        ) from error
    return Found(judged)


def _cases(
    statement: Statement, dtype: str, weights: tuple[float, float] | None, raw: bool, long: bool
) -> SearchStrategy[Pair]:
    from hypothesis import strategies as st

    from retainfirst.theory import strategies

    domains = statement.domains or strategies.DOMAINS

    @st.composite
    def cases(draw: st.DrawFn) -> Pair:
        f, r = draw(strategies.raw_pairs(dtype, long) if raw else strategies.pairs(dtype, domains, long))
        alpha, gamma = weights or draw(strategies.weights())
        groups = draw(strategies.groupings(len(r))) if statement.grouped else ()
        return Pair(f, r, alpha, gamma, groups)

    return cases()


def _violation(statement: Statement, judge: Judge, dtype: str, objection: str, name: str) -> StatementViolated:
    pair = judge.pair
    update = judge.update if isinstance(judge, Stored) else None
    lines = [
        f"{statement.id} ({statement.title}) does not hold for {name or judge.rule} in {dtype}: {objection}",
        f"  forget = {_shown(pair.forget)}",
        f"  retain = {_shown(pair.retain)}",
        *([f"  update = {_shown(update)}"] if update is not None else []),
        f"  alpha = {pair.alpha}, gamma = {pair.gamma}" + (f", groups = {list(pair.groups)}" if pair.groups else ""),
    ]
    return StatementViolated(
        "\n".join(lines),
        statement=statement.id,
        forget=as_tensor(pair.forget),
        retain=as_tensor(pair.retain),
        update=None if update is None else as_tensor(update),
        alpha=pair.alpha,
        gamma=pair.gamma,
    )


def _shown(x: NDArray[Any]) -> str:
    values = [float(value) for value in x[:12]]
    return (
        f"{values}" if len(x) <= 12 else f"{values[:-1]} ... ({len(x)} elements; all are in the exception's attributes)"
    )
