"""Which searches check a statement: combiners and their implementations, formats, optimisers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.implementations import implementations, toward_retain
from retainfirst.theory.runs import Run
from retainfirst.theory.search import Combine
from retainfirst.theory.statements import Statement

__all__ = ["Search", "property_searches", "refuting_searches", "with_optimizers"]


class Search(NamedTuple):
    """One search.

    Attributes:
        words: The name of the implementation or, of a statement about steps, of the combiner.
        combiner: The combiner whose formula counts as exact.
        call: Combines a pair; None: judge the formula.
        dtype: The format.
        raw: Whether to draw any bits.
        run: The optimiser of a statement about steps.
    """

    words: str
    combiner: str
    call: Combine | None
    dtype: str
    raw: bool
    run: Run | None = None

    @property
    def title(self) -> str:
        """Its name, with the optimiser."""
        return self.words if self.run is None else f"{self.words} with {self.run.name}"


def property_searches(statement: Statement) -> list[Search]:
    """Return the searches of :func:`~retainfirst.theory.checks.by_property`."""
    if statement.runs:
        return list(_property_step_searches(statement))
    several = [one for combiner in statement.promised_by for one in implementations(combiner)]
    if statement.id == "X2":
        several += toward_retain()
    raws = (False, True) if statement.raw else (False,)
    found = [
        Search(one.name, statement.combiner, one.call, dtype, raw)
        for one in several
        for dtype in FORMATS
        for raw in raws
    ]
    if statement.exact:
        exact = (*statement.promised_by, *statement.exact_only)
        found += [Search(f"{name}, not rounded", name, None, dtype, False) for name in exact for dtype in FORMATS]
    return found


def refuting_searches(statement: Statement) -> list[Search]:
    """Return the searches of :func:`~retainfirst.theory.checks.by_counterexample`."""
    if statement.runs:
        return list(_step_searches(statement, statement.combiner))
    [implementation] = [one for one in implementations(statement.combiner) if one.backend == "rust"]
    name = statement.combiner
    return [Search(name, name, implementation.call, dtype, False) for dtype in reversed(FORMATS)]


def _step_searches(statement: Statement, combiner: str) -> Iterator[Search]:
    """Yield one search for each optimiser, in one format after the other, and for the first optimiser in all formats.

    The updates of a combiner's implementations are compared elsewhere, so that one implementation is enough here.
    """
    call, (first, *others) = implementations(combiner)[0].call, statement.runs
    for raw in (False, True) if statement.raw else (False,):
        for dtype in FORMATS:
            yield Search(combiner, combiner, call, dtype, raw, first)
    for run, dtype in zip(others, cycle(FORMATS), strict=False):
        yield Search(combiner, combiner, call, dtype, False, run)


def _property_step_searches(statement: Statement) -> Iterator[Search]:
    """Yield the searches of a statement about steps: with all its optimisers for the combiner that it is about.

    Further combiners that promise it are searched with the first optimiser, in one format after the other.
    """
    if not statement.promised_by:
        return
    lead = statement.combiner if statement.combiner in statement.promised_by else statement.promised_by[0]
    yield from _step_searches(statement, lead)
    others = [combiner for combiner in statement.promised_by if combiner != lead]
    for combiner, dtype in zip(others, cycle(reversed(FORMATS)), strict=False):
        yield Search(combiner, combiner, implementations(combiner)[0].call, dtype, False, statement.runs[0])


def with_optimizers(statement: Statement) -> str:
    """Return the optimisers of a statement about steps in words, each once."""
    return " with " + ", ".join(dict.fromkeys(run.family for run in statement.runs)) if statement.runs else ""
