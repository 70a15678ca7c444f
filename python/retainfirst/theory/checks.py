"""Four ways to check a statement: the solver, all 16-bit pairs, drawn pairs, and real gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from retainfirst.combiners import combine
from retainfirst.extension import rust
from retainfirst.theory import solver
from retainfirst.theory.arrays import as_array, as_tensor
from retainfirst.theory.cases import StepCase, StoredCase
from retainfirst.theory.counterexamples import from_solver, from_violation
from retainfirst.theory.search import search
from retainfirst.theory.searches import property_searches, refuting_searches, with_optimizers
from retainfirst.theory.statements import Statement
from retainfirst.theory.steps import take
from retainfirst.theory.sums import GradientPair

__all__ = [
    "EXHAUSTIVE_UNITS",
    "Check",
    "RealGradients",
    "Tick",
    "by_counterexample",
    "by_exhaustion",
    "by_property",
    "by_real_gradients",
    "by_solver",
    "counterexample_units",
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

_STEP_SHARE = 6
"""Searches about steps judge this many times fewer pairs: there is one for each optimiser, and a case takes several steps."""


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
                good, rest, violation = rust.exhaustive(combiner, dtype, 1.0, 1.0, first, first + _SLICE)
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
    return len(property_searches(statement))


def by_property(statement: Statement, examples: int, seed: int, tick: Tick) -> Check:
    """Search for a pair of gradients that breaks a combiner's promise, in every format and on every backend."""
    start = time.perf_counter()
    count, details = 0, []
    violation, empty = None, False
    if statement.runs:
        examples = max(1, examples // _STEP_SHARE)
    for name, combiner, call, dtype, raw, run in property_searches(statement):
        one = replace(statement, combiner=combiner)
        # Only the first violation is simplified, since only that one is reported as a counterexample.
        found = search(one, call, dtype, examples, run=run, raw=raw, seed=seed, name=name, shrink=violation is None)
        count += found.judged
        empty = empty or found.judged == 0
        tick(1)
        if found.violation is not None:
            violation = violation or found.violation
            details.append(str(found.violation))
    details.append("searched: " + "; ".join(dict.fromkeys(one.title for one in property_searches(statement))))
    verdict: Verdict = "refuted" if violation is not None else "vacuous" if empty else "holds"
    subject = ", ".join(
        [
            *statement.promised_by,
            *(f"{name} (not rounded)" for name in statement.exact_only),
            *(["pcgrad toward retain"] if statement.id == "X2" else []),
        ]
    ) + with_optimizers(statement)
    counterexample = None if violation is None else from_violation(violation)
    return _check("property", subject, verdict, "holds", count, start, details, counterexample)


def counterexample_units(statement: Statement) -> int:
    """Return the number of searches in :func:`by_counterexample`."""
    return len(refuting_searches(statement))


def by_counterexample(statement: Statement, examples: int, seed: int, tick: Tick) -> Check:
    """Search for a pair of gradients that refutes a statement which should not hold; one format is enough.

    A statement about steps must be refuted with every optimiser that it names.
    """
    start = time.perf_counter()
    count, details, counterexample = 0, [], None
    searches = refuting_searches(statement)
    refuted = set()
    for one in searches:
        found = search(
            statement,
            one.call,
            one.dtype,
            # Ten times as many: in the wide formats only rare pairs refute it.
            10 * examples,
            run=one.run,
            seed=seed,
            name=one.words,
            shrink=counterexample is None,
        )
        count += found.judged
        tick(1)
        where = one.dtype if one.run is None else f"{one.run.name}, {one.dtype}"
        if found.violation is None:
            details.append(f"{where}: not refuted by {found.judged} pairs")
        else:
            details.append(f"{where}: refuted; {found.judged} pairs were judged")
            refuted.add(one.run)
            counterexample = counterexample or from_violation(found.violation)
    verdict: Verdict = "refuted" if refuted == {one.run for one in searches} else "holds"
    subject = statement.combiner + with_optimizers(statement)
    return _check("property", subject, verdict, "refuted", count, start, details, counterexample)


def by_real_gradients(statement: Statement, real: RealGradients, tick: Tick) -> Check:
    """Judge the updates of real gradients, for each parameter tensor and for the whole model.

    Of a statement about steps: the steps that its first optimiser makes of them, each after those before, for two combiners.
    """
    start = time.perf_counter()
    count, details = 0, []
    combiners = statement.promised_by[: 2 if statement.runs else None]
    runs: dict[str, list[GradientPair]] = {}
    for gradients in real.steps:
        whole = tuple(torch.cat([pair[task].reshape(-1) for pair in gradients.values()]) for task in (0, 1))
        for name, (forget, retain) in {**gradients, "the whole model": whole}.items():
            pairs = runs.setdefault(name, [])
            pairs.append(GradientPair(as_array(forget), as_array(retain), gamma=real.gamma))
            for combiner in combiners:
                case = _real_case(statement, combiner, pairs)
                if statement.hypothesis(case):
                    count += 1
                    objection = statement.objection(case)
                    details += [f"{combiner}, {name}: {objection}"] if objection is not None else []
        tick(1)
    verdict: Verdict = "refuted" if details else "vacuous" if count == 0 else "holds"
    details.append(
        f"{real.model}: each tensor's and the whole model's gradients, {len(real.steps)} steps, gamma = {real.gamma:g}"
    )
    with_run = f" with {statement.runs[0].name}" if statement.runs else ""
    return _check("real", ", ".join(combiners) + with_run, verdict, "holds", count, start, details)


def _real_case(statement: Statement, combiner: str, pairs: Sequence[GradientPair]) -> StoredCase:
    def update(pair: GradientPair) -> NDArray[Any]:
        return as_array(combine(as_tensor(pair.forget), as_tensor(pair.retain), combiner, gamma=pair.gamma))

    if not statement.runs:
        return StoredCase(pairs[-1], statement.combiner, update(pairs[-1]))
    run = statement.runs[0]
    return StepCase(pairs[-1], statement.combiner, take(update, run, pairs[-run.steps :]))


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
