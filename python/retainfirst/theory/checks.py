"""The four means of checking a statement: the solver, all 16-bit pairs, drawn pairs, and real gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from retainfirst import _rust
from retainfirst.combiners import combine
from retainfirst.theory import solver
from retainfirst.theory.arrays import FORMATS, as_array
from retainfirst.theory.counterexamples import from_solver, from_violation
from retainfirst.theory.implementations import IMPLEMENTATIONS, TOWARD_RETAIN
from retainfirst.theory.judges import Stored
from retainfirst.theory.search import Combine, search
from retainfirst.theory.statements import Statement
from retainfirst.theory.sums import Pair

__all__ = [
    "COUNTEREXAMPLE_UNITS",
    "EXHAUSTIVE_UNITS",
    "Check",
    "RealGradients",
    "Tick",
    "by_counterexample",
    "by_exhaustion",
    "by_property",
    "by_real_gradients",
    "by_solver",
    "property_units",
    "solver_units",
]

How = Literal["solver", "exhaustive", "property", "real"]
Verdict = Literal["holds", "refuted", "undecided", "vacuous"]
Tick = Callable[[int], None]

_SIXTEEN_BIT = ("bfloat16", "float16")
_ALL = 1 << 16
_SLICE = 1 << 10
EXHAUSTIVE_UNITS = len(_SIXTEEN_BIT) * 2 * _ALL // _SLICE
"""Slices of retain values that :func:`by_exhaustion` goes through."""

COUNTEREXAMPLE_UNITS = len(FORMATS)
"""Formats that :func:`by_counterexample` goes through."""


@dataclass(frozen=True)
class RealGradients:
    """The gradients of a real run.

    Attributes:
        model: What was trained, in words.
        gamma: Weight of the forget gradient in that run.
        steps: For each step, parameter names to the forget and the retain gradient.
    """

    model: str
    gamma: float
    steps: Sequence[Mapping[str, tuple[Tensor, Tensor]]]


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

    how: How
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
    counterexample = from_solver(statement) if verdict == "refuted" and statement.status == "refuted" else None
    if verdict == "refuted" == statement.status and counterexample is None:
        verdict = "undecided"  # numbers that no vectors replay convince nobody
    details = [
        f"{proof.words}: {proof.verdict} in {proof.seconds:.2f} s" + (f", {proof.model}" if proof.model else "")
        for proof in proofs
    ]
    subject = "reals, every dimension" + ("; IEEE formats" if statement.id == "T1" else "")
    expected: Verdict = "refuted" if statement.status == "refuted" else "holds"
    return _check("solver", subject, verdict, expected, len(proofs), start, details, counterexample)


def by_exhaustion(tick: Tick) -> Check:
    """Hold both SAGO forms against the scalar specification and T1 on every pair of 16-bit numbers, at weights 1."""
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
                    *bits, broken = violation
                    f, r, found, expected = (f"{x:#06x}" for x in bits)
                    details.append(
                        f"{rule} in {dtype} breaks {broken}: forget {f}, retain {r}: {found}, not {expected}"
                    )
                    break
    verdict: Verdict = "refuted" if details else "holds"
    details.append(f"{', '.join(_SIXTEEN_BIT)}: {finite:,} finite pairs, {other:,} with NaN or infinity")
    return _check("exhaustive", "sago, sago_keep_retain", verdict, "holds", finite + other, start, details)


def property_units(statement: Statement) -> int:
    """Return how many searches :func:`by_property` makes."""
    return len(_searches(statement))


def by_property(statement: Statement, examples: int, seed: int, tick: Tick) -> Check:
    """Look for a pair of gradients that breaks what combiners promise, in every format and on every backend."""
    start = time.perf_counter()
    count, details = 0, []
    violation, empty = None, False
    for name, rule, call, dtype, raw in _searches(statement):
        found = search(replace(statement, rule=rule), call, dtype, examples, raw=raw, seed=seed, name=name)
        count += found.judged
        empty = empty or found.judged == 0
        tick(1)
        if found.violation is not None:
            violation = violation or found.violation
            details.append(str(found.violation))
    details.append("searched: " + "; ".join(dict.fromkeys(name for name, *_ in _searches(statement))))
    verdict: Verdict = "refuted" if violation is not None else "vacuous" if empty else "holds"
    subject = ", ".join(statement.promised_by) + (", pcgrad toward retain" if statement.id == "X2" else "")
    counterexample = None if violation is None else from_violation(violation)
    return _check("property", subject, verdict, "holds", count, start, details, counterexample)


def by_counterexample(statement: Statement, examples: int, seed: int, tick: Tick) -> Check:
    """Look for the pair of gradients that refutes a statement that is not expected to hold; one format is enough."""
    start = time.perf_counter()
    count, details, counterexample = 0, [], None
    [implementation] = [one for one in IMPLEMENTATIONS[statement.rule] if one.backend == "rust"]
    for dtype in reversed(FORMATS):
        # Ten times as many: in the wide formats it takes rare pairs.
        found = search(statement, implementation.call, dtype, 10 * examples, seed=seed, name=statement.rule)
        count += found.judged
        tick(1)
        if found.violation is None:
            details.append(f"{dtype}: not refuted by {found.judged} pairs")
        else:
            details.append(f"{dtype}: refuted, with {found.judged} pairs judged until the simplest was found")
            counterexample = counterexample or from_violation(found.violation)
    verdict: Verdict = "holds" if counterexample is None else "refuted"
    return _check("property", statement.rule, verdict, "refuted", count, start, details, counterexample)


def by_real_gradients(statement: Statement, real: RealGradients, tick: Tick) -> Check:
    """Judge the updates of real gradients, of each parameter tensor and of the whole model."""
    start = time.perf_counter()
    count, details = 0, []
    for gradients in real.steps:
        whole = tuple(torch.cat([pair[task].reshape(-1) for pair in gradients.values()]) for task in (0, 1))
        for name, (forget, retain) in {**gradients, "the whole model": whole}.items():
            pair = Pair(as_array(forget), as_array(retain), gamma=real.gamma)
            for rule in statement.promised_by:
                judge = Stored(pair, statement.rule, as_array(combine(forget, retain, rule, gamma=real.gamma)))
                if statement.hypothesis(judge):
                    count += 1
                    objection = statement.objection(judge)
                    details += [f"{rule}, {name}: {objection}"] if objection is not None else []
        tick(1)
    verdict: Verdict = "refuted" if details else "vacuous" if count == 0 else "holds"
    details.append(
        f"{real.model}: each tensor's and the whole model's gradients, {len(real.steps)} steps, gamma = {real.gamma:g}"
    )
    return _check("real", ", ".join(statement.promised_by), verdict, "holds", count, start, details)


def _searches(statement: Statement) -> list[tuple[str, str, Combine | None, str, bool]]:
    """Return what :func:`by_property` searches: a name, the rule, what combines (None: the rule itself), a format, any bits."""
    several = [one for rule in statement.promised_by for one in IMPLEMENTATIONS[rule]]
    if statement.id == "X2":
        several += TOWARD_RETAIN
    # Where an overflow is no objection, any finite bits are drawn as well.
    raws = (False, True) if statement.id in ("T1", "T3", "X2") else (False,)
    found: list[tuple[str, str, Combine | None, str, bool]] = [
        (one.name, statement.rule, one.call, dtype, raw) for one in several for dtype in FORMATS for raw in raws
    ]
    if statement.exact:
        found += [
            (f"{rule}, not rounded", rule, None, dtype, False) for rule in statement.promised_by for dtype in FORMATS
        ]
    return found


def _check(
    how: How,
    subject: str,
    verdict: Verdict,
    expected: Verdict,
    count: int,
    start: float,
    details: list[str],
    counterexample: dict[str, Any] | None = None,
) -> Check:
    seconds = time.perf_counter() - start
    return Check(how, subject, verdict, expected, count, seconds, tuple(details), counterexample)
