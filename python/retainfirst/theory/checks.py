"""Four ways to check a statement: the solver, all 16-bit pairs, drawn pairs, and real gradients."""

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
from retainfirst.theory.cases import StoredCase
from retainfirst.theory.counterexamples import from_solver, from_violation
from retainfirst.theory.implementations import implementations, toward_retain
from retainfirst.theory.search import Combine, search
from retainfirst.theory.statements import Statement
from retainfirst.theory.sums import GradientPair

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
"""The number of slices of retain values in :func:`by_exhaustion`."""

COUNTEREXAMPLE_UNITS = len(FORMATS)
"""The number of formats in :func:`by_counterexample`."""


@dataclass(frozen=True)
class RealGradients:
    """The gradients of a real run.

    Attributes:
        model: The model, in words.
        gamma: Weight of the forget gradient in that run.
        steps: For each step a mapping from parameter names to the forget and the retain gradient.
    """

    model: str
    gamma: float
    steps: Sequence[Mapping[str, tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Check:
    """The result of one way to check a statement.

    Attributes:
        how: ``"solver"``, ``"exhaustive"``, ``"property"`` or ``"real"`` (gradients of a real run).
        subject: The objects of the check, such as the names of combiners.
        verdict: ``"holds"`` or ``"refuted"``; ``"undecided"``: the solver ran out of time; ``"vacuous"``: no case met the
            hypothesis, so that nothing was checked.
        expected: The verdict according to the theorem book.
        count: The number of claims (solver), of pairs of numbers (exhaustive), or of gradient pairs that met the hypothesis.
        seconds: Wall time.
        details: The findings in words.
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
        del fields["counterexample"]  # the statement's entry has it
        return {**fields, "seconds": round(self.seconds, 3), "details": list(self.details)}


def solver_units(statement: Statement) -> int:
    """Return the number of proofs in :func:`by_solver`."""
    return len(statement.claims) + (
        len(solver.IEEE_FORMATS) * len(statement.promised_by) if statement.id == "T1" else 0
    )


def by_solver(statement: Statement, tick: Tick) -> Check:
    """Prove the claims over the real numbers, and T1 in IEEE arithmetic; replay a refutation as vectors."""
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
        verdict = "undecided"  # a solver's model that we cannot replay is no counterexample
    details = [
        f"{proof.words}: {proof.verdict} in {proof.seconds:.2f} s" + (f", {proof.model}" if proof.model else "")
        for proof in proofs
    ]
    subject = "reals, every dimension" + ("; IEEE formats" if statement.id == "T1" else "")
    expected: Verdict = "refuted" if statement.status == "refuted" else "holds"
    return _check("solver", subject, verdict, expected, len(proofs), start, details, counterexample)


def by_exhaustion(tick: Tick) -> Check:
    """Check both forms of SAGO against a scalar specification and T1 on every pair of 16-bit numbers, at weights 1."""
    start = time.perf_counter()
    finite = other = 0
    details = []
    for dtype in _SIXTEEN_BIT:
        for combiner in ("sago", "sago_keep_retain"):
            for first in range(0, _ALL, _SLICE):
                good, rest, violation = _rust.exhaustive(combiner, dtype, 1.0, 1.0, first, first + _SLICE)
                finite, other = finite + good, other + rest
                tick(1)
                if violation is not None:
                    *bits, broken = violation
                    f, r, found, expected = (f"{x:#06x}" for x in bits)
                    details.append(
                        f"{combiner} in {dtype} breaks {broken}: forget {f}, retain {r}: {found}, not {expected}"
                    )
                    break
    verdict: Verdict = "refuted" if details else "holds"
    details.append(f"{', '.join(_SIXTEEN_BIT)}: {finite:,} finite pairs, {other:,} with NaN or infinity")
    return _check("exhaustive", "sago, sago_keep_retain", verdict, "holds", finite + other, start, details)


def property_units(statement: Statement) -> int:
    """Return the number of searches in :func:`by_property`."""
    return len(_searches(statement))


def by_property(statement: Statement, examples: int, seed: int, tick: Tick) -> Check:
    """Search for a pair of gradients that breaks a combiner's promise, in every format and on every backend."""
    start = time.perf_counter()
    count, details = 0, []
    violation, empty = None, False
    for name, combiner, call, dtype, raw in _searches(statement):
        one = replace(statement, combiner=combiner)
        # Only the first violation is simplified, since only that one is reported as a counterexample.
        found = search(one, call, dtype, examples, raw=raw, seed=seed, name=name, shrink=violation is None)
        count += found.judged
        empty = empty or found.judged == 0
        tick(1)
        if found.violation is not None:
            violation = violation or found.violation
            details.append(str(found.violation))
    details.append("searched: " + "; ".join(dict.fromkeys(name for name, *_ in _searches(statement))))
    verdict: Verdict = "refuted" if violation is not None else "vacuous" if empty else "holds"
    subject = ", ".join(
        [
            *statement.promised_by,
            *(f"{name} (not rounded)" for name in statement.exact_only),
            *(["pcgrad toward retain"] if statement.id == "X2" else []),
        ]
    )
    counterexample = None if violation is None else from_violation(violation)
    return _check("property", subject, verdict, "holds", count, start, details, counterexample)


def by_counterexample(statement: Statement, examples: int, seed: int, tick: Tick) -> Check:
    """Search for a pair of gradients that refutes a statement which should not hold; one format is enough."""
    start = time.perf_counter()
    count, details, counterexample = 0, [], None
    [implementation] = [one for one in implementations(statement.combiner) if one.backend == "rust"]
    for dtype in reversed(FORMATS):
        # Ten times as many: in the wide formats only rare pairs refute it.
        found = search(
            statement,
            implementation.call,
            dtype,
            10 * examples,
            seed=seed,
            name=statement.combiner,
            shrink=counterexample is None,
        )
        count += found.judged
        tick(1)
        if found.violation is None:
            details.append(f"{dtype}: not refuted by {found.judged} pairs")
        else:
            details.append(f"{dtype}: refuted; {found.judged} pairs were judged")
            counterexample = counterexample or from_violation(found.violation)
    verdict: Verdict = "holds" if counterexample is None else "refuted"
    return _check("property", statement.combiner, verdict, "refuted", count, start, details, counterexample)


def by_real_gradients(statement: Statement, real: RealGradients, tick: Tick) -> Check:
    """Judge the updates of real gradients, for each parameter tensor and for the whole model."""
    start = time.perf_counter()
    count, details = 0, []
    for gradients in real.steps:
        whole = tuple(torch.cat([pair[task].reshape(-1) for pair in gradients.values()]) for task in (0, 1))
        for name, (forget, retain) in {**gradients, "the whole model": whole}.items():
            pair = GradientPair(as_array(forget), as_array(retain), gamma=real.gamma)
            for combiner in statement.promised_by:
                update = combine(forget, retain, combiner, gamma=real.gamma)
                case = StoredCase(pair, statement.combiner, as_array(update))
                if statement.hypothesis(case):
                    count += 1
                    objection = statement.objection(case)
                    details += [f"{combiner}, {name}: {objection}"] if objection is not None else []
        tick(1)
    verdict: Verdict = "refuted" if details else "vacuous" if count == 0 else "holds"
    details.append(
        f"{real.model}: each tensor's and the whole model's gradients, {len(real.steps)} steps, gamma = {real.gamma:g}"
    )
    return _check("real", ", ".join(statement.promised_by), verdict, "holds", count, start, details)


def _searches(statement: Statement) -> list[tuple[str, str, Combine | None, str, bool]]:
    """Return the searches of :func:`by_property`.

    Each is a name, the combiner whose formula counts as exact, the call that combines (None: judge the formula), the format,
    and whether to draw any bits.
    """
    several = [one for combiner in statement.promised_by for one in implementations(combiner)]
    if statement.id == "X2":
        several += toward_retain()
    # These statements allow an overflow, so that any finite bits can be drawn as well.
    raws = (False, True) if statement.id in ("T1", "T3", "X2") else (False,)
    found: list[tuple[str, str, Combine | None, str, bool]] = [
        (one.name, statement.combiner, one.call, dtype, raw) for one in several for dtype in FORMATS for raw in raws
    ]
    if statement.exact:
        exact = (*statement.promised_by, *statement.exact_only)
        found += [(f"{name}, not rounded", name, None, dtype, False) for name in exact for dtype in FORMATS]
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
