"""Counterexamples as explicit vectors, with each combiner's update of them, so that other programs can replay them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retainfirst import reference
from retainfirst.errors import StatementViolated
from retainfirst.theory import solver
from retainfirst.theory.arrays import as_array
from retainfirst.theory.cases import ExactCase, StepCase, StoredCase
from retainfirst.theory.claims import Claim
from retainfirst.theory.statements import Statement
from retainfirst.theory.steps import take
from retainfirst.theory.sums import Angle, GradientPair

__all__ = ["from_solver", "from_violation"]

_SHOWN = ("sago", "sago_keep_retain", "pcgrad")
"""The combiners whose updates a counterexample lists."""


def from_solver(statement: Statement) -> dict[str, Any] | None:
    """Turn the solver's refutation of a statement into vectors, and replay it without rounding and as stored in float32.

    Of a statement about steps every claim is replayed: in fractions, and with the statement's first optimiser.

    Returns:
        The counterexample as in ``verification.json``; None if the solver gives no vectors or a replay does not refute the
        statement.
    """
    if statement.runs:
        steps = [_replayed(statement, claim) for claim in statement.claims]
        return None if None in steps else steps[0]
    for claim in statement.claims:
        vectors = solver.counterexample(claim)
        if vectors is None:
            continue
        forget, retain = (np.array([float(x) for x in vector], np.float32) for vector in vectors)
        pair = GradientPair(forget, retain)
        stored = StoredCase(pair, statement.combiner, reference.combine(forget, retain, statement.combiner))
        cases = (ExactCase(pair, statement.combiner), stored)
        if all(statement.hypothesis(case) and not statement.conclusion(case) for case in cases):
            return _described(pair)
    return None


def from_violation(violation: StatementViolated) -> dict[str, Any]:
    """Describe the pair that a search found, as in ``verification.json``."""
    arrays = as_array(violation.forget), as_array(violation.retain)
    found = _described(GradientPair(*arrays, violation.alpha, violation.gamma, violation.groups))
    if violation.before is None or violation.after is None:
        return found
    earlier = [(as_array(forget), as_array(retain)) for forget, retain in violation.earlier]
    return found | _described_step(
        violation.optimizer or "", as_array(violation.before), as_array(violation.after), arrays[1], earlier
    )


def _replayed(statement: Statement, claim: Claim) -> dict[str, Any] | None:
    """Replay the solver's refutation of a claim about coordinates with the statement's combiner and first optimiser."""
    numbers = solver.step_counterexample(claim)
    if numbers is None:
        return None

    def vector(names: str) -> NDArray[Any]:
        return np.array([float(numbers[name]) for name in names.split()], np.float32)

    pairs = [GradientPair(vector(forget), vector(retain)) for forget, retain in claim.steps]
    start = vector(claim.start) if claim.start else np.zeros_like(pairs[0].retain)
    run = statement.runs[0]
    step = take(lambda pair: reference.combine(pair.forget, pair.retain, statement.combiner), run, pairs, start)
    case = StepCase(pairs[-1], statement.combiner, step)
    if not statement.hypothesis(case) or statement.conclusion(case):
        return None
    earlier = [(pair.forget, pair.retain) for pair in pairs[:-1]]
    return _described(pairs[-1]) | _described_step(run.name, step.before, step.after, pairs[-1].retain, earlier)


def _described_step(
    optimizer: str,
    before: NDArray[Any],
    after: NDArray[Any],
    retain: NDArray[Any],
    earlier: Sequence[tuple[NDArray[Any], NDArray[Any]]],
) -> dict[str, Any]:
    finite = np.isfinite(after).all() and np.isfinite(before).all()
    return {
        "step": {
            "optimizer": optimizer,
            "earlier": [{"forget": _numbers(f), "retain": _numbers(r)} for f, r in earlier],
            "before": _numbers(before),
            "after": _numbers(after),
            "dot_product": str(reference.dot(after, retain) - reference.dot(before, retain)) if finite else None,
        }
    }


def _described(pair: GradientPair) -> dict[str, Any]:
    """Return a pair with the updates that the library stores and their exact angles to retain.

    A cosine is given as its exact square (with the cosine's sign) and as a decimal; None for a zero vector.
    """
    updates = {
        name: reference.combine(pair.forget, pair.retain, name, pair.alpha, pair.gamma, pair.groups or None)
        for name in _SHOWN
    }
    angles = {
        name: Angle(reference.dot(u, pair.retain), reference.dot(u, u), pair.sums.retain_square)
        for name, u in updates.items()
        if np.isfinite(u).all()
    }
    return {
        "forget": _numbers(pair.forget),
        "retain": _numbers(pair.retain),
        "alpha": pair.alpha,
        "gamma": pair.gamma,
        "groups": [list(group) for group in pair.groups or [(0, len(pair.retain))]],
        "dtype": pair.retain.dtype.name,
        "updates": {name: _numbers(u) for name, u in updates.items()},
        "dot_products": {name: str(angle.dot) for name, angle in angles.items()},
        "cosines": {name: _cosine(angle) for name, angle in angles.items()},
    }


def _cosine(angle: Angle) -> dict[str, Any] | None:
    if angle.square == 0 or angle.retain_square == 0:
        return None
    return {"squared": str(angle.squared_cosine), "decimal": angle.cosine}


def _numbers(x: NDArray[Any]) -> list[float]:
    return [float(value) for value in x]
