"""The verification: jobs that check each statement in every way that applies to it, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from retainfirst.errors import require
from retainfirst.extension import require_extension
from retainfirst.theory import checks
from retainfirst.theory.checks import Check, RealGradients, Tick
from retainfirst.theory.statements import STATEMENTS, Statement

__all__ = ["Job", "Result", "plan", "run"]


@dataclass(frozen=True)
class Job:
    """One check to run.

    Attributes:
        statement: The statement.
        how: The way to check it, as in :attr:`retainfirst.theory.checks.Check.how`.
        total: Units of work.
        run: Runs the check, and calls its argument with the number of units done since the last call.
    """

    statement: Statement
    how: str
    total: int
    run: Callable[[Tick], Check]


@dataclass(frozen=True)
class Result:
    """All checks of one statement."""

    statement: Statement
    checks: list[Check] = field(default_factory=list)

    @property
    def as_expected(self) -> bool:
        """Whether every check has the verdict that the theorem book expects."""
        return all(check.verdict == check.expected for check in self.checks)

    @property
    def status(self) -> str:
        """``"refuted"`` if a check refutes the statement, ``"holds"`` if all confirm it, else ``"undecided"``."""
        found = {check.verdict for check in self.checks}
        return "refuted" if "refuted" in found else "holds" if found == {"holds"} else "undecided"

    @property
    def counterexample(self) -> dict[str, Any] | None:
        """The first counterexample of the checks, as in ``verification.json``; None if there is none."""
        return next((check.counterexample for check in self.checks if check.counterexample), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the statement's entry in ``verification.json``."""
        return {
            "id": self.statement.id,
            "title": self.statement.title,
            "words": self.statement.words,
            "formula": self.statement.formula,
            "source": self.statement.source,
            "status": self.status,
            "expected": self.statement.status,
            "as_expected": self.as_expected,
            "checks": [check.as_dict() for check in self.checks],
            "counterexample": self.counterexample,
        }


def plan(
    statements: Sequence[Statement] = STATEMENTS,
    *,
    examples: int = 60,
    exhaustive: bool = False,
    real: RealGradients | None = None,
    seed: int = 0,
) -> list[Job]:
    """Return the jobs that check some statements.

    Args:
        statements: The statements.
        examples: Pairs of gradients to case for each statement, combiner, backend and format.
        exhaustive: Also check every pair of bfloat16 and of float16 numbers.
        real: Gradients of a real run, to judge their updates too.
        seed: The same seed gives the same pairs.

    Raises:
        MissingDependency: hypothesis or z3-solver is not installed (extra ``verify``), or the compiled extension is missing.
    """
    require_extension("retainfirst verify")
    for module in ("hypothesis", "z3"):
        require(module, "verify")
    jobs: list[Job] = []
    for one in statements:
        if one.claims:
            jobs.append(Job(one, "solver", checks.solver_units(one), partial(checks.by_solver, one)))
        if exhaustive and one.id == "T1":
            jobs.append(Job(one, "exhaustive", checks.EXHAUSTIVE_UNITS, checks.by_exhaustion))
        if one.status == "refuted":
            search = partial(checks.by_counterexample, one, examples, seed)
            jobs.append(Job(one, "property", checks.counterexample_units(one), search))
        if one.promised_by:
            jobs.append(
                Job(one, "property", checks.property_units(one), partial(checks.by_property, one, examples, seed))
            )
            if real is not None:
                jobs.append(Job(one, "real", len(real.steps), partial(checks.by_real_gradients, one, real)))
    return jobs


def _silent(job: Job, units: int) -> None:
    pass


def run(jobs: Iterable[Job], tick: Callable[[Job, int], None] = _silent) -> list[Result]:
    """Run jobs, one after the other.

    Args:
        jobs: The jobs of :func:`plan`.
        tick: Callback: ``tick(job, units done since the last call)``.

    Returns:
        One result for each statement, in the order of the jobs.
    """
    found: dict[str, Result] = {}
    for job in jobs:
        result = found.setdefault(job.statement.id, Result(job.statement))
        result.checks.append(job.run(partial(tick, job)))
    return list(found.values())
