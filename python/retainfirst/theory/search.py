"""Looking for a pair of gradients that breaks a statement, with hypothesis (extra ``verify``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retainfirst.errors import RetainFirstError, StatementViolated, require
from retainfirst.theory.arrays import as_tensor
from retainfirst.theory.judges import Exact, Judge, Stored
from retainfirst.theory.statements import Statement
from retainfirst.theory.sums import Pair

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["Combine", "Found", "search"]

_TRIES = 4
"""How many pairs are drawn at most for each one that shall be judged."""

Combine = Callable[[Pair], NDArray[Any]]
"""Makes the stored update of a pair."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        judged: Cases that met the statement's hypothesis, with neither gradient zero.
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
        max_examples: About how many cases to judge, in equal parts for each domain; fewer are, where a domain seldom meets the
            hypothesis.
        weights: Alpha and gamma; None: drawn.
        raw: Draw any finite bits, not only numbers whose dot products cannot overflow.
        seed: The same seed gives the same pairs.
        name: The combiner's name, for the text of a violation.

    Raises:
        MissingDependency: hypothesis is not installed.
        RetainFirstError: The combiner gave two updates for one pair, or raised it.
    """
    require("hypothesis", "verify")
    from retainfirst.theory import strategies

    domains = (None,) if raw else statement.domains or strategies.DOMAINS
    judged = 0
    # Short arrays first: what shows there is found there, and shrinks to something that can be read.
    for long, share in ((False, 0.75), (True, 0.25)):
        for domain in domains:
            cases = _cases(statement, dtype, weights, domain, long)
            enough = math.ceil(max_examples * share / len(domains))
            found = _search(statement, combine, dtype, enough, cases, raw, seed, name)
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
    raw: bool,
    seed: int,
    name: str,
) -> Found:
    import hypothesis

    judged, violated = 0, False

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_TRIES * max_examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(cases)
    def check(pair: Pair) -> None:
        nonlocal judged, violated
        if judged >= max_examples and not violated:
            return
        judge: Judge = Exact(pair, statement.rule) if combine is None else Stored(pair, statement.rule, combine(pair))
        if not statement.hypothesis(judge):
            return
        # A pair with a zero gradient is judged too, but says little.
        judged += int((pair.forget != 0).any() and (pair.retain != 0).any())
        objection = _not_finite(judge, raw) or statement.objection(judge)
        if objection is not None:
            violated = True
            raise _violation(statement, judge, dtype, objection, name)

    try:
        check()
    except StatementViolated as violation:
        return Found(judged, violation)
    except hypothesis.errors.Flaky:
        raise RetainFirstError(
            f"{name}: gave different updates for the same two gradients; it must not be random"
        ) from None
    return Found(judged)


def _not_finite(judge: Judge, raw: bool) -> str | None:
    """NaN made of finite gradients is against every statement; so is infinity, unless bits or weights may make one."""
    if not isinstance(judge, Stored) or judge.is_finite:
        return None
    # A projection's coefficient, about as large as |f| / |r|, may then leave float64, and shows that it did.
    if judge.pair.sums.retain_square > 0 and judge.stretch > 1e300:
        return None
    may_overflow = raw or max(judge.pair.alpha, judge.pair.gamma) > 1
    bad = np.isnan(judge.update) if may_overflow else ~np.isfinite(judge.update)
    if not bad.any():
        return None
    i = int(bad.argmax())
    return f"update[{i}] = {judge.update[i]}, though forget and retain are finite"


def _cases(
    statement: Statement, dtype: str, weights: tuple[float, float] | None, domain: str | None, long: bool
) -> SearchStrategy[Pair]:
    """Return a strategy of cases in one domain; None: of any finite bits."""
    from hypothesis import strategies as st

    from retainfirst.theory import strategies

    pairs = strategies.raw_pairs(dtype, long) if domain is None else strategies.pairs(dtype, [domain], long)

    @st.composite
    def cases(draw: st.DrawFn) -> Pair:
        f, r = draw(pairs)
        alpha, gamma = weights or draw(strategies.weights())
        groups = draw(st.one_of(st.just(()), strategies.groupings(len(r)))) if statement.grouped else ()
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
