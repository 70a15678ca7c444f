"""Checks of a combiner, whoever computes it: the statements that it promises, its formula, and the edge rules.

Each raises AssertionError with the place. ``tests/property`` runs them on the library's implementations, ``tests/meta`` on
combiners that are wrong on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import oracle
from retainfirst.theory import STATEMENTS
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.draws import Source, batches
from retainfirst.theory.search import search
from retainfirst.theory.strategies import DOMAINS
from retainfirst.theory.sums import GradientPair

Call = Callable[[GradientPair], NDArray[Any]]


def check_promises(combiner: str, call: Call, dtype: str, examples: int, shrink: bool = True) -> None:
    """Every statement that the combiner promises of its updates, on drawn pairs and weights, judged by the exact oracle.

    ``tests/property/test_steps.py`` has the steps that optimisers make of them.
    """
    for statement in STATEMENTS:
        if combiner in statement.promised_by and not statement.runs:
            found = search(statement, call, dtype, examples, name=combiner, shrink=shrink)
            if found.violation is not None:
                raise found.violation
            assert found.judged > 0, f"{statement.id}: no pair met its hypothesis"


def check_formula(combiner: str, call: Call, dtype: str, examples: int, shrink: bool = True) -> None:
    """The stored update is the written-out one: to the bit if element-wise, else within the projection's bound."""

    def check(pair: GradientPair) -> None:
        found = call(pair)
        assert found.shape == pair.retain.shape
        assert found.dtype == pair.retain.dtype
        if combiner in oracle.ELEMENTWISE:
            expected = oracle.elementwise_array(combiner, pair.forget, pair.retain, pair.alpha, pair.gamma)
            different = (found != expected) | (np.signbit(found) != np.signbit(expected))
            assert not different.any(), _place(pair, found, expected, different)
        else:
            _check_projection(combiner, pair, found)

    # Half of the pairs have any bits, the others come from all domains; a quarter as many are long.
    for long, share in ((False, 1.0), (True, 0.25)):
        for domain in (*DOMAINS, None):
            source = Source(dtype, domain, long, 0, weights=None, grouped=True)
            wanted = math.ceil(examples * share / (2 if domain is None else 2 * len(DOMAINS)))
            for batch in batches(wanted):
                pairs = source.pairs(batch)[-wanted:]  # hypothesis draws the simplest pairs first
                wanted -= len(pairs)
                try:
                    for pair in pairs:
                        check(pair)
                except AssertionError:
                    if shrink:
                        source.shrink(batch, check)
                    raise


def check_edges(combiner: str, call: Call, dtype: str) -> None:
    """NaN and infinity in either gradient show in the update at their place, for all signs; zeros oppose nothing."""
    kind = FORMATS[dtype]
    for bad in (math.nan, math.inf, -math.inf):
        for other in (1.0, -1.0, 0.0):
            for n, i in ((1, 0), (5, 3), (9, 8), (33, 32)):
                clean = np.where(np.arange(n) % 2, 0.5, -0.25).astype(kind)
                for f_value, r_value in ((bad, other), (other, bad)):
                    f, r = clean.copy(), clean[::-1].copy()
                    f[i], r[i] = f_value, r_value
                    with np.errstate(all="ignore"):
                        u = call(GradientPair(f, r))
                    assert not np.isfinite(u[i]), (
                        f"forget[{i}] = {f_value}, retain[{i}] = {r_value}, but update[{i}] = {u[i]}"
                    )
    zero = np.zeros(4, kind)
    x = np.array([1.0, -2.0, 0.0, 2.0], kind)
    unit = (x.astype(float) / 3).astype(kind)  # ngdiff divides by the norm
    alone = unit if combiner == "ngdiff" else x
    np.testing.assert_array_equal(call(GradientPair(x, zero)), alone, "a zero retain gradient opposes nothing")
    kept = {"sago": zero, "gru": zero, "agem": zero, "ngdiff": unit}.get(combiner, x)
    np.testing.assert_array_equal(call(GradientPair(zero, x)), kept, "a zero forget gradient changes nothing")


def _check_projection(combiner: str, pair: GradientPair, found: NDArray[Any]) -> None:
    dtype = getattr(torch, pair.retain.dtype.name)
    largest = Fraction(torch.finfo(dtype).max)
    alpha, gamma = Fraction(pair.alpha), Fraction(pair.gamma)
    for start, stop in pair.groups or [(0, len(pair.retain))]:
        fs, rs = (oracle.fractions(x[start:stop]) for x in (pair.forget, pair.retain))
        ff, rr, fr = oracle.dot(fs, fs), oracle.dot(rs, rs), oracle.dot(fs, rs)
        c_r, c_f = map(_to_256_bits, oracle.coefficients(combiner, ff, rr, fr, alpha, gamma))
        reaches = tuple(map(_to_256_bits, oracle.reach(combiner, oracle.root(ff), oracle.root(rr), alpha, gamma)))
        if max(reaches) > 1e300 or any(0 < abs(c) < 1e-290 for c in (c_r, c_f)):
            continue  # the coefficient overflows or underflows float64, as documented
        bound_at = oracle.projection_bound(dtype, stop - start, reaches, Fraction)
        for i, (f, r) in enumerate(zip(fs, rs, strict=True), start):
            exact = c_r * r + c_f * f
            bound = bound_at(exact, f, r)
            if not np.isfinite(found[i]):
                assert abs(exact) + bound > largest, f"update[{i}] = {found[i]}, but should be {float(exact)}"
            else:
                wrong = abs(Fraction(float(found[i])) - exact) > bound
                assert not wrong, f"update[{i}] = {found[i]}, but should be {float(exact)}; {_text(pair)}"


def _to_256_bits(x: Fraction) -> Fraction:
    """Round to 256 bits, far below the bound: arithmetic with thousands of bits would take seconds."""
    shift = 256 + x.denominator.bit_length() - x.numerator.bit_length()
    return Fraction(round(x * Fraction(2) ** shift)) / Fraction(2) ** shift


def _place(pair: GradientPair, found: NDArray[Any], expected: NDArray[Any], different: NDArray[Any]) -> str:
    i = int(different.argmax())
    inputs = f"forget {pair.forget[i]}, retain {pair.retain[i]}; {_text(pair)}"
    return f"update[{i}] = {found[i]}, but should be {expected[i]}: {inputs}"


def _text(pair: GradientPair) -> str:
    return f"n = {len(pair.retain)}, alpha {pair.alpha}, gamma {pair.gamma}, groups {list(pair.groups)}"
