"""The solver proves every claim of the book, and its refutation of X1 is a pair of explicit vectors."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest

import retainfirst as rf
from retainfirst import reference
from retainfirst.theory import STATEMENTS, solver, statement
from retainfirst.theory.claims import PAIR, Claim
from retainfirst.theory.counterexamples import from_solver

CLAIMS = [(one, claim) for one in STATEMENTS for claim in one.claims]


@pytest.mark.parametrize(("one", "claim"), CLAIMS, ids=[f"{one.id}-{claim.words}" for one, claim in CLAIMS])
def test_claims(one, claim):
    proof = solver.prove(claim)
    assert proof.verdict == ("refuted" if one.status == "refuted" else "proved")
    assert bool(proof.model) == (proof.verdict == "refuted")


@pytest.mark.parametrize("rule", ["sago", "sago_keep_retain"])
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, marks=pytest.mark.slow if dtype in ("float64", "float32") else ())
        for dtype in solver.IEEE_FORMATS
    ],
)
def test_t1_holds_in_ieee_arithmetic(rule, dtype):
    assert solver.prove_t1_in_ieee(rule, dtype).verdict == "proved"


def test_the_ieee_model_is_not_proved_by_accident(monkeypatch):
    """Without its assumptions the claim fails: the gradients may be NaN, and the update is plain addition."""
    import z3

    monkeypatch.setattr(z3, "fpIsNaN", lambda x: z3.BoolVal(False))
    monkeypatch.setattr(z3, "fpIsInf", lambda x: z3.BoolVal(False))
    monkeypatch.setattr(z3, "If", lambda condition, then, otherwise: otherwise)  # no coordinate counts as a conflict
    assert solver.prove_t1_in_ieee("sago_keep_retain", "bfloat16").verdict == "refuted"


def test_the_counterexample_of_x1_in_explicit_vectors():
    [claim] = statement("X1").claims
    forget, retain = solver.counterexample(claim)
    dot = sum(f * r for f, r in zip(forget, retain, strict=True))
    square = sum(r * r for r in retain)
    assert dot < 0
    sago = [r if f * r < 0 else f for f, r in zip(forget, retain, strict=True)]
    pcgrad = [r + f - dot / square * r for f, r in zip(forget, retain, strict=True)]

    def squared_cosine(u):
        along = sum(x * r for x, r in zip(u, retain, strict=True))
        assert along > 0
        return along**2 / (sum(x * x for x in u) * square)

    assert squared_cosine(sago) < squared_cosine(pcgrad)


def test_the_counterexample_is_replayed_in_what_the_library_stores():
    case = from_solver(statement("X1"))
    import numpy as np

    f, r = (np.array(case[name], case["dtype"]) for name in ("forget", "retain"))
    updates = [reference.combine(f, r, rule, case["alpha"], case["gamma"]) for rule in ("sago", "pcgrad")]
    assert [u.tolist() for u in updates] == [case["updates"]["sago"], case["updates"]["pcgrad"]]
    assert reference.compare_cosines(*updates, r) == -1
    for rule, u in zip(("sago", "pcgrad"), updates, strict=True):
        squared = Fraction(case["cosines"][rule]["squared"])
        assert squared == reference.dot(u, r) ** 2 / (reference.dot(u, u) * reference.dot(r, r))
        assert case["cosines"][rule]["decimal"] == pytest.approx(float(squared) ** 0.5, rel=1e-15)


def test_a_true_claim_has_no_counterexample():
    assert solver.counterexample(Claim("true", PAIR, statement("X1").claims[0].assume, lambda v: [v.R > 0])) is None


def test_what_is_not_refuted_by_vectors_gives_none():
    assert from_solver(statement("T6")) is None


def test_without_z3_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "z3", None)
    with pytest.raises(rf.MissingDependency, match=r"retainfirst\[verify\]"):
        solver.prove(CLAIMS[0][1])
