"""The statements about steps as predicates of a case, as :mod:`retainfirst.theory._judgements`; signs only, no tolerance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retainfirst.theory.cases import Case, StepCase
from retainfirst.theory.steps import Array, moves_against
from retainfirst.theory.sums import as_float

__all__ = [
    "finite_step",
    "guarded_amiss",
    "guarded_by_update_amiss",
    "opposed_coordinate_of_the_step",
    "step_against_retention",
]


def finite_step(case: Case) -> bool:
    """A step that overflows shows it. An update with NaN is not let through: it is judged, and objected to."""
    return _step(case).step_is_finite or not _step(case).is_finite


def opposed_coordinate_of_the_step(case: Case) -> str | None:
    """T9, T10 and X4."""
    return _opposed(_step(case)) or step_against_retention(case)


def step_against_retention(case: Case) -> str | None:
    """X3: the sign of the exact dot product of the stored step with retain."""
    one = _step(case)
    if not np.isfinite(one.step.after).all() or one.dot <= 0:
        return None
    return f"<d, r> = {as_float(one.dot):.6g} is above 0: the step works against retention"


def guarded_amiss(case: Case) -> str | None:
    """T11: the guard puts back what moves against retain, to the bit, and leaves all else."""
    one = _step(case)
    back = moves_against(one.step.before, one.step.moved, one.pair.retain)
    return opposed_coordinate_of_the_step(case) or _otherwise(one, back, "retain", one.pair.retain)


def guarded_by_update_amiss(case: Case) -> str | None:
    """T12: the same by the signs of the update; where it is 0 the guard puts back all that moved. NaN stays."""
    one = _step(case)
    before, moved = one.step.before, one.step.moved
    with np.errstate(invalid="ignore"):  # ml_dtypes warns about NaN
        unknown = (one.update == 0) & ((moved > before) | (moved < before))
    back = moves_against(before, moved, one.update) | unknown
    return opposed_coordinate_of_the_step(case) or _otherwise(one, back, "update", one.update)


def _step(case: Case) -> StepCase:
    if not isinstance(case, StepCase):
        raise TypeError("only a step has parameters before and after it")
    return case


def _opposed(one: StepCase) -> str | None:
    if not one.against.any():
        return None
    i = int(one.against.argmax())
    return f"parameter[{i}] moves from {one.step.before[i]} to {one.step.after[i]}, against retain[{i}] = {one.pair.retain[i]}"


def _otherwise(one: StepCase, back: NDArray[np.bool_], name: str, read: Array) -> str | None:
    step = one.step
    wrong = _bits(step.after) != _bits(np.where(back, step.before, step.moved))
    if not wrong.any():
        return None
    i = int(wrong.argmax())
    wanted = "put back" if back[i] else "left"
    where = f"parameter[{i}] moved from {step.before[i]} to {step.moved[i]} at {name}[{i}] = {read[i]}"
    return f"{where} and had to be {wanted}, but the guard made {step.after[i]} of it"


def _bits(x: Array) -> Array:
    return np.ascontiguousarray(x).view(f"u{x.itemsize}")
