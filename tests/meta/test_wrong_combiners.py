"""Combiners that are wrong on purpose are caught by the checks meant for them; the right ones pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from promises import check_edges, check_formula, check_promises
from retainfirst import reference
from retainfirst.errors import StatementViolated
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.sums import GradientPair, opposed

Array = NDArray[Any]
EXAMPLES = 200

# The stand-ins have products that underflow and quotients that overflow.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def right(combiner: str, pair: GradientPair) -> Array:
    return reference.combine(
        pair.forget, pair.retain, combiner, alpha=pair.alpha, gamma=pair.gamma, groups=pair.groups or None
    )


def sago(pair: GradientPair, conflict: Array) -> Array:
    """SAGO for a given mask of conflicts, with its NaN rule."""
    wide = np.dtype(np.float64 if pair.retain.dtype == np.float64 else np.float32)
    f, r = pair.forget.astype(wide), pair.retain.astype(wide)
    update = np.where(conflict, wide.type(pair.alpha) * r, wide.type(pair.gamma) * f)
    return np.where(np.isfinite(f) & np.isfinite(r), update, f + r).astype(pair.retain.dtype)


def pcgrad(pair: GradientPair, sign: float = -1.0, shift: int = 0, always: bool = False) -> Array:
    update = np.empty_like(pair.retain)
    for i, (start, stop) in enumerate(pair.groups or [(0, len(pair.retain))]):
        f, r = (x[start:stop].astype(np.float64) for x in (pair.forget, pair.retain))
        # A group may read the wrong range, but it writes its own.
        first = max(start - shift, 0) if i == 1 else start
        seen_f, seen_r = (x[first : first + stop - start].astype(np.float64) for x in (pair.forget, pair.retain))
        dot, square = seen_f @ seen_r, seen_r @ seen_r
        h = f + sign * (dot / square) * r if square > 0 and (dot < 0 or always) else f
        update[start:stop] = (pair.alpha * r + pair.gamma * h).astype(update.dtype)
    return update


def product_decides(pair: GradientPair) -> Array:
    return sago(pair, pair.forget * pair.retain < 0)


def zero_conflicts(pair: GradientPair) -> Array:
    return sago(pair, np.sign(pair.forget) * np.sign(pair.retain) <= 0)


def weights_swapped(pair: GradientPair) -> Array:
    return right("sago", GradientPair(pair.forget, pair.retain, pair.gamma or 1.0, pair.alpha, pair.groups))


def pcgrad_weights_swapped(pair: GradientPair) -> Array:
    return right("pcgrad", GradientPair(pair.forget, pair.retain, pair.gamma or 1.0, pair.alpha, pair.groups))


def nan_masked(pair: GradientPair) -> Array:
    return np.where(opposed(pair.forget, pair.retain), pair.retain, pair.forget)


def last_of_an_odd_length_left_out(pair: GradientPair) -> Array:
    update = right("sago", pair)
    if len(update) % 2:
        update[-1] = pair.retain[-1]
    return update


def last_of_an_odd_length_not_projected(pair: GradientPair) -> Array:
    update = right("pcgrad", pair)
    if len(update) % 2:
        update[-1] = pair.retain[-1]
    return update


def projection_with_the_wrong_sign(pair: GradientPair) -> Array:
    return pcgrad(pair, sign=1.0)


def second_group_looks_one_off(pair: GradientPair) -> Array:
    return pcgrad(pair, shift=1)


def projects_without_conflict(pair: GradientPair) -> Array:
    return pcgrad(pair, always=True)


def plain_addition(pair: GradientPair) -> Array:
    return right("sum", pair)


# Each wrong combiner, the combiner that it claims to be, and the checks that must catch it.
WRONG = [
    (product_decides, "sago", {"promises", "formula"}),
    (zero_conflicts, "sago", {"promises", "formula", "edges"}),
    (weights_swapped, "sago", {"promises", "formula"}),
    (pcgrad_weights_swapped, "pcgrad", {"promises", "formula"}),
    (nan_masked, "sago", {"edges"}),
    (last_of_an_odd_length_left_out, "sago", {"promises", "formula"}),
    (last_of_an_odd_length_not_projected, "pcgrad", {"formula"}),
    (projection_with_the_wrong_sign, "pcgrad", {"promises", "formula"}),
    (second_group_looks_one_off, "pcgrad", {"formula"}),
    (projects_without_conflict, "pcgrad", {"formula"}),
    (plain_addition, "sago", {"promises", "formula", "edges"}),
    (plain_addition, "sago_keep_retain", {"promises", "formula"}),
    (plain_addition, "pcgrad", {"promises", "formula"}),
]
CHECKS = {
    "promises": lambda *case: check_promises(*case, EXAMPLES, shrink=False),
    "formula": lambda *case: check_formula(*case, EXAMPLES, shrink=False),
    "edges": check_edges,
}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("combiner", "claimed", "seen_by"), WRONG, ids=[f"{one.__name__}-{claimed}" for one, claimed, _ in WRONG]
)
def test_caught(combiner, claimed, seen_by, dtype):
    for check in sorted(seen_by):
        with pytest.raises((StatementViolated, AssertionError)):
            CHECKS[check](claimed, combiner, dtype)


@pytest.mark.parametrize("name", [pytest.param("sago", marks=pytest.mark.slow), "pcgrad"])
def test_the_right_ones_pass(name):
    for check in CHECKS.values():
        check(name, lambda pair: right(name, pair), "float32")


def test_these_stand_ins_are_right_but_for_their_fault():
    for name, stand_in in (("sago", lambda p: sago(p, opposed(p.forget, p.retain))), ("pcgrad", pcgrad)):
        check_formula(name, stand_in, "float32", EXAMPLES)
