"""The four means of checking a statement: the solver, all 16-bit pairs, drawn pairs, and real gradients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from torch import Tensor

from retainfirst import _rust
from retainfirst.combiners import combine
from retainfirst.theory import solver
from retainfirst.theory.arrays import FORMATS, as_array
from retainfirst.theory.counterexamples import from_solver, from_violation
from retainfirst.theory.gradients import FORGET_WEIGHT, facts_gradients
from retainfirst.theory.implementations import IMPLEMENTATIONS, TOWARD_RETAIN, Implementation
from retainfirst.theory.judges import Stored
from retainfirst.theory.search import search
from retainfirst.theory.statements import Statement
from retainfirst.theory.sums import Pair

__all__ = [
    "COUNTEREXAMPLE_UNITS",
    "EXHAUSTIVE_UNITS",
    "Check",
    "Tick",
    "by_counterexample",
    "by_exhaustion",
    "by_property",
    "by_real_gradients",
    "by_solver",
    "property_units",
    "solver_units",
]

Verdict = Literal["holds", "refuted", "undecided", "vacuous"]
Tick = Callable[[int], None]

_SIXTEEN_BIT = ("bfloat16", "float16")
_ALL = 1 << 16
_SLICE = 1 << 8
EXHAUSTIVE_UNITS = len(_SIXTEEN_BIT) * 2 * _ALL // _SLICE
"""Slices of retain values that :func:`by_exhaustion` goes through."""

COUNTEREXAMPLE_UNITS = len(FORMATS)
"""Formats that :func:`by_counterexample` goes through."""


@dataclass(frozen=True)
class Check:
    """What one means came to.

    Attributes:
        how: ``"solver"``, ``"exhaustive"``, ``"property"`` or ``"real"`` (gradients of a real run).
        subject: What was checked, such as combiners.
        verdict: ``"holds"`` or ``"refuted"``; ``"undecided"``: the solver ran out of time; ``"vacuous"``: nothing met the
            hypothesis, so that nothing was checked.
        expected: The verdict that the theorem book foresees.
        count: Claims (solver), pairs of numbers (exhaustive), or pairs of gradients that met the hypothesis.
        seconds: Wall time.
        details: What was found, in words.
        counterexample: The case that refutes the statement, as in ``verification.json``.
    """

    how: Literal["solver", "exhaustive", "property", "real"]
    subject: str
    verdict: Verdict
    expected: Verdict
    count: int
    seconds: float
    details: tuple[str, ...] = ()
    counterexample: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the check's entry in ``verification.json``."""
        fields = asdict(self)
        del fields["counterexample"]  # which stands beside the checks
        return {**fields, "seconds": round(self.seconds, 3), "details": list(self.details)}


def solver_units(statement: Statement) -> int:
    """Return how many proofs :func:`by_solver` runs."""
    return len(statement.claims) + (
        len(solver.IEEE_FORMATS) * len(statement.promised_by) if statement.id == "T1" else 0
    )


def by_solver(statement: Statement, tick: Tick) -> Check:
    """Prove the claims over the real numbers, and T1 in IEEE arithmetic; replay what refutes a claim as vectors."""
    start = time.perf_counter()
    proofs = []
    for proof in solver.prove_statement(statement):
        proofs.append(proof)
        tick(1)
    found = {proof.verdict for proof in proofs}
    verdict: Verdict = "holds"
    for bad in ("vacuous", "undecided", "refuted"):
        if bad in found:
            verdict = bad
    counterexample = None
    if verdict == "refuted" and statement.status == "refuted":
        counterexample = from_solver(statement)
        if counterexample is None:
            verdict = "undecided"  # a model that no vectors replay convinces nobody
    return Check(
        "solver",
        "real numbers, every dimension" + (", and rounded" if statement.id == "T1" else ""),
        verdict,
        "refuted" if statement.status == "refuted" else "holds",
        len(proofs),
        time.perf_counter() - start,
        tuple(
            f"{proof.words}: {proof.verdict} in {proof.seconds:.2f} s" + (f", {proof.model}" if proof.model else "")
            for proof in proofs
        ),
        counterexample,
    )


def by_exhaustion(tick: Tick) -> Check:
    """Hold both SAGO forms against the scalar specification and T1 on every pair of 16-bit numbers."""
    start = time.perf_counter()
    finite = other = 0
    details = []
    for dtype in _SIXTEEN_BIT:
        for rule in ("sago", "sago_keep_retain"):
            for first in range(0, _ALL, _SLICE):
                good, rest, violation = _rust.exhaustive(rule, dtype, 1.0, 1.0, first, first + _SLICE)
                finite, other = finite + good, other + rest
                tick(1)
                if violation is not None:
                    details.append(f"{rule} in {dtype}: {violation}")
                    break
    details.append(f"{finite:,} finite pairs, {other:,} with NaN or infinity")
    verdict: Verdict = "refuted" if len(details) > 1 else "holds"
    return Check(
        "exhaustive", "sago, sago_keep_retain; " + ", ".join(_SIXTEEN_BIT), verdict, "holds", finite + other,
        time.perf_counter() - start, tuple(details),
    )  # fmt: skip


def property_units(statement: Statement) -> int:
    """Return how many searches :func:`by_property` makes."""
    return len(_searches(statement))


def by_property(statement: Statement, examples: int, seed: int, tick: Tick) -> Check:
    """Look for a pair of gradients that breaks what combiners promise, in every format and on every backend."""
    start = time.perf_counter()
    count, details = 0, []
    violation = None
    empty = False
    for name, implementation, dtype, raw in _searches(statement):
        combiner = implementation.call if implementation is not None else None
        found = search(statement, combiner, dtype, examples, raw=raw, seed=seed, name=name)
        count += found.judged
        empty = empty or found.judged == 0
        tick(1)
        if found.violation is not None:
            violation = violation or found.violation
            details.append(str(found.violation))
        elif found.judged < examples:
            details.append(f"{name} in {dtype}: the hypothesis was met by {found.judged} pairs only")
    verdict: Verdict = "refuted" if violation is not None else "vacuous" if empty else "holds"
    names = dict.fromkeys(name for name, *_ in _searches(statement))
    counterexample = None if violation is None else from_violation(violation)
    return Check(
        "property",
        ", ".join(names),
        verdict,
        "holds",
        count,
        time.perf_counter() - start,
        tuple(details),
        counterexample,
    )


def by_counterexample(statement: Statement, examples: int, seed: int, tick: Tick) -> Check:
    """Look for the pair of gradients that refutes a statement that is not expected to hold."""
    start = time.perf_counter()
    count, details, counterexample = 0, [], None
    [implementation] = [one for one in IMPLEMENTATIONS[statement.rule] if one.backend == "rust"]
    for dtype in reversed(FORMATS):
        # It may take rare pairs in the wide formats; one format is enough to refute.
        found = search(statement, implementation.call, dtype, 10 * examples, seed=seed, name=statement.rule)
        count += found.judged
        tick(1)
        if found.violation is None:
            details.append(f"{dtype}: not refuted by {found.judged} pairs")
        else:
            details.append(f"{dtype}: refuted after {found.judged} pairs")
            counterexample = counterexample or from_violation(found.violation)
    verdict: Verdict = "holds" if counterexample is None else "refuted"
    return Check(
        "property",
        statement.rule,
        verdict,
        "refuted",
        count,
        time.perf_counter() - start,
        tuple(details),
        counterexample,
    )


def by_real_gradients(statement: Statement, steps: int, seed: int, tick: Tick) -> Check:
    """Judge the updates of real gradients, of each parameter tensor and of the whole model."""
    start = time.perf_counter()
    count, details = 0, []
    counterexample = None
    for gradients in _facts(steps, seed):
        for name, (forget, retain) in gradients.items():
            for rule in statement.promised_by:
                pair = Pair(as_array(forget), as_array(retain), gamma=FORGET_WEIGHT)
                update = combine(forget, retain, rule, gamma=FORGET_WEIGHT)
                judge = Stored(pair, statement.rule, as_array(update))
                if not statement.hypothesis(judge):
                    continue
                count += 1
                objection = statement.objection(judge)
                if objection is not None:
                    details.append(f"{rule}, {name}: {objection}")
        tick(1)
    verdict: Verdict = "refuted" if details else "vacuous" if count == 0 else "holds"
    subject = f"{', '.join(statement.promised_by)}; facts model, {steps} steps"
    return Check("real", subject, verdict, "holds", count, time.perf_counter() - start, tuple(details), counterexample)


@cache
def _facts(steps: int, seed: int) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Return real gradients by tensor, with those of the whole model under its own name; made once for all statements."""
    import torch

    steps_found = []
    for gradients in facts_gradients(steps, seed):
        whole = tuple(torch.cat([pair[task].reshape(-1) for pair in gradients.values()]) for task in (0, 1))
        steps_found.append({**gradients, "the whole model": (whole[0], whole[1])})
    return steps_found


def _searches(statement: Statement) -> list[tuple[str, Implementation | None, str, bool]]:
    """Return what :func:`by_property` searches: a name, the implementation (None: the rule itself), a format, any bits or not."""
    found: list[tuple[str, Implementation | None, str, bool]] = []
    # Where nothing could overflow into an objection, any finite bits are drawn as well.
    raws = (False, True) if statement.id in ("T1", "T3", "X2") else (False,)
    several = [one for rule in statement.promised_by for one in IMPLEMENTATIONS[rule]]
    if statement.id == "X2":
        several += TOWARD_RETAIN
    found += [(one.name, one, dtype, raw) for one in several for dtype in FORMATS for raw in raws]
    if statement.exact:
        found += [(f"{statement.rule} without rounding", None, dtype, False) for dtype in FORMATS]
    return found
