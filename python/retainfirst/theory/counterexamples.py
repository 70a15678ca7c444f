"""Counterexamples as vectors that anyone can put into another program, with what every side makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retainfirst import reference
from retainfirst.errors import StatementViolated
from retainfirst.theory import solver
from retainfirst.theory.arrays import as_array
from retainfirst.theory.judges import Exact, Stored
from retainfirst.theory.statements import Statement
from retainfirst.theory.sums import Angle, Pair

__all__ = ["from_solver", "from_violation"]

_SHOWN = ("sago", "sago_keep_retain", "pcgrad")


def from_solver(statement: Statement) -> dict[str, Any] | None:
    """Turn the solver's refutation of a statement into vectors and replay it, without rounding and as stored in float32.

    Returns:
        The counterexample as in ``verification.json``; None if there are no vectors or a replay does not refute the statement.
    """
    for claim in statement.claims:
        vectors = solver.counterexample(claim)
        if vectors is None:
            continue
        forget, retain = (np.array([float(x) for x in vector], np.float32) for vector in vectors)
        pair = Pair(forget, retain)
        stored = Stored(pair, statement.rule, reference.combine(forget, retain, statement.rule))
        judges = (Exact(pair, statement.rule), stored)
        if all(statement.hypothesis(judge) and not statement.conclusion(judge) for judge in judges):
            return _described(pair)
    return None


def from_violation(violation: StatementViolated) -> dict[str, Any]:
    """Describe the pair that a search found, as in ``verification.json``."""
    arrays = as_array(violation.forget), as_array(violation.retain)
    return _described(Pair(*arrays, violation.alpha, violation.gamma, violation.groups))


def _described(pair: Pair) -> dict[str, Any]:
    """Return a pair with the updates as the library stores them, and their angles to retain exactly.

    Cosines are given as the exact square (with the cosine's sign) and as decimals; None for a zero vector.
    """
    updates = {
        rule: reference.combine(pair.forget, pair.retain, rule, pair.alpha, pair.gamma, pair.groups or None)
        for rule in _SHOWN
    }
    angles = {
        rule: Angle(reference.dot(u, pair.retain), reference.dot(u, u), pair.sums.retain_square)
        for rule, u in updates.items()
        if np.isfinite(u).all()
    }
    return {
        "forget": _numbers(pair.forget),
        "retain": _numbers(pair.retain),
        "alpha": pair.alpha,
        "gamma": pair.gamma,
        "groups": [list(group) for group in pair.groups or [(0, len(pair.retain))]],
        "dtype": pair.retain.dtype.name,
        "updates": {rule: _numbers(u) for rule, u in updates.items()},
        "dot_products": {rule: str(angle.dot) for rule, angle in angles.items()},
        "cosines": {rule: _cosine(angle) for rule, angle in angles.items()},
    }


def _cosine(angle: Angle) -> dict[str, Any] | None:
    if angle.square == 0 or angle.retain_square == 0:
        return None
    return {"squared": str(angle.squared_cosine), "decimal": angle.cosine}


def _numbers(x: NDArray[Any]) -> list[float]:
    return [float(value) for value in x]
