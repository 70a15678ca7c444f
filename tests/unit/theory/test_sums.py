"""The six numbers and what is made of them, against the rules written out over the fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retainfirst.theory import STATEMENTS
from retainfirst.theory.arrays import FORMATS, as_array, as_tensor
from retainfirst.theory.claims import PAIR, Unknowns
from retainfirst.theory.strategies import groupings, pairs, raw_pairs, weights
from retainfirst.theory.sums import ExactSums, GradientPair, root

RULES = ("sago", "sago_keep_retain", "pcgrad")


@st.composite
def any_pair(draw):
    dtype = draw(st.sampled_from(list(FORMATS)))
    f, r = draw(st.one_of(pairs(dtype), raw_pairs(dtype)))
    return GradientPair(f, r, *draw(weights()), groups=draw(st.one_of(st.just(()), groupings(len(r)))))


def fractions(x):
    return [Fraction(float(value)) for value in x]


def dot(x, y):
    return sum((a * b for a, b in zip(x, y, strict=True)), Fraction())


def written_out(rule, pair):
    """The definition, one coordinate at a time."""
    alpha, gamma = Fraction(pair.alpha), Fraction(pair.gamma)
    f, r = fractions(pair.forget), fractions(pair.retain)
    if rule == "pcgrad":
        u = [Fraction()] * len(r)
        for start, stop in pair.groups or [(0, len(r))]:
            fg, rg = f[start:stop], r[start:stop]
            along, square = dot(fg, rg), dot(rg, rg)
            for i in range(start, stop):
                u[i] = alpha * r[i] + gamma * (f[i] - (along / square) * r[i] if along < 0 else f[i])
        return u
    kept = Fraction() if rule == "sago" else alpha
    return [alpha * y if x * y < 0 else kept * y + gamma * x for x, y in zip(f, r, strict=True)]


@given(any_pair())
def test_exact_angles_are_those_of_the_rules(pair):
    r = fractions(pair.retain)
    for rule in RULES:
        u = written_out(rule, pair)
        angle = pair.exact(rule)
        assert (angle.dot, angle.square, angle.retain_square) == (dot(u, r), dot(u, u), dot(r, r))
        if angle.square and angle.retain_square:
            assert -1 <= angle.squared_cosine <= 1
            assert abs(angle.cosine) <= 1


@given(any_pair())
def test_what_the_solver_assumes_of_a_pair_is_true_of_every_pair(pair):
    x = pair.sums
    numbers = Unknowns(a=x.a, b=x.b, p=x.p, q=x.q, s=x.s, t=x.t, l=pair.ratio)
    for statement in STATEMENTS:
        for claim in statement.claims:
            # Lemmas with unknowns of their own and the refuted claims are the solver's.
            if claim.unknowns == PAIR and statement.status != "refuted" and all(claim.assume(numbers)):
                assert all(claim.conclude(numbers)), (statement.id, claim.words)


@given(any_pair())
def test_the_aggregate_form_of_tighter_is_the_order_of_the_cosines(pair):
    """The polynomials that the solver sees say the same as the cosines, for pairs of one group in conflict."""
    from retainfirst.theory._proofs import _tighter

    whole = GradientPair(pair.forget, pair.retain, pair.alpha, pair.gamma)
    x = whole.sums
    sago, pcgrad = whole.exact("sago"), whole.exact("pcgrad")
    if x.dot < 0 and sago.square > 0:
        numbers = Unknowns(a=x.a, b=x.b, p=x.p, q=x.q, s=x.s, t=x.t)
        assert _tighter(numbers, whole.ratio) == (sago.squared_cosine > pcgrad.squared_cosine)


@given(any_pair())
def test_groups_add_up(pair):
    assert pair.sums == ExactSums.of(pair.forget, pair.retain)


@given(st.fractions(min_value=0), st.integers(-3000, 3000))
def test_root(x, exponent):
    x *= Fraction(2) ** exponent
    found = root(x)
    if math.isinf(found):
        assert x > Fraction(2) ** 2047
    elif x > Fraction(1, 2**2000):
        # sqrt rounds once, and so does the quotient before it, by half of that.
        assert abs(Fraction(found) ** 2 / x - 1) < Fraction(4, 2**53)


@pytest.mark.parametrize("dtype", FORMATS)
def test_tensors_and_arrays_hold_the_same_bits(dtype):
    x = np.arange(-3, 4).astype(FORMATS[dtype])
    tensor = as_tensor(x)
    assert str(tensor.dtype) == f"torch.{dtype}"
    assert tensor.tolist() == x.astype(float).tolist()
    assert as_array(tensor).tobytes() == x.tobytes()
    assert as_array(tensor).dtype == x.dtype
