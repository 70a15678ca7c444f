"""Each objection objects to a known wrong update, and the verification leaves no combiner, backend, format or proof out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch

from retainfirst import files, kernels, reference
from retainfirst.combiners import available_combiners
from retainfirst.errors import RetainFirstError
from retainfirst.theory import STATEMENTS, checks, searches, solver, statement
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.cases import ExactCase, StepCase, StoredCase
from retainfirst.theory.counterexamples import from_solver
from retainfirst.theory.crossing import crossing_point
from retainfirst.theory.guards import BY_RETAIN
from retainfirst.theory.implementations import implementations, toward_retain
from retainfirst.theory.runs import Run
from retainfirst.theory.search import search
from retainfirst.theory.steps import Step
from retainfirst.theory.strategies import LONG
from retainfirst.theory.sums import Angle, GradientPair

F, R = np.array([1.0, -5.0]), np.array([1.0, 1.0])


def stored(name, combine, f=F, r=R, **weights):
    pair = GradientPair(f, r, **weights)
    return StoredCase(pair, name, combine(pair))


def by(name):
    return implementations(name)[0].call


def step(before, moved, after=None, r=(1.0, -1.0), u=(1.0, -1.0)):
    """A step from ``before`` to ``moved``, of which a guard made ``after``."""
    before, moved, after, r, u = (np.array(x, float) for x in (before, moved, moved if after is None else after, r, u))
    return StepCase(GradientPair(r, r), "sago", Step(Run("a step", "", None), u, before, moved, after))


def negative(name):
    return lambda pair: -by(name)(pair)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("T1", stored("sago", by("sum"))),
        ("T2", stored("pcgrad", by("sum"))),
        ("T3", stored("sago", by("sum"))),
        ("T4", stored("pcgrad", by("sum"))),
        ("T4", stored("pcgrad", by("sago"))),
        ("T5", stored("sago", by("pcgrad"), gamma=2.0)),
        ("T5", stored("sago", by("sum"), gamma=2.0)),
        ("T6", stored("sago_keep_retain", by("sum"))),
        ("T7", stored("sago", by("sum"), gamma=10 * crossing_point(F, R))),
        ("T7", stored("sago", by("pcgrad"), gamma=10 * crossing_point(F, R))),
        ("T7", stored("sago", by("sago_keep_retain"), gamma=0.1 * crossing_point(F, R))),
        ("T8", stored("sago", by("pcgrad"), gamma=1000.0)),
        ("T8", stored("sago", negative("sago"))),
        ("X1", stored("sago", by("pcgrad"), f=np.array([0.01, -0.02]))),
        ("X2", stored("pcgrad", by("sum"))),
        *((name, step((0, 0), (1, 9))) for name in ("T9", "T10", "T11", "T12", "X4")),
        ("X3", step((0, 0), (1, 0.5))),
        ("T11", step((0, 0), (1, -1), (1, 0))),  # the wrong one is put back
        ("T11", step((0, 0), (-1, 1), (0, 0))),  # nothing had to be put back
        ("T11", step((0, 0), (1, 1), (-0.0, 1))),  # put back to another zero
        ("T12", step((0, 0), (-1, 9), (-1, 9), r=(1, 0), u=(1, 0))),  # where the update is 0
        ("T12", step((0, 0), (-1, np.nan), (-1, 0), r=(1, 0), u=(1, 0))),  # NaN is not put back
    ],
)
def test_wrong_updates_meet_an_objection(name, case):
    one = statement(name)
    assert one.hypothesis(case), "the statement does not apply to the case"
    assert one.objection(case)
    assert not one.conclusion(case)


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("pcgrad", False),
        ("sago_keep_retain", False),
        ("orthogonal", False),
        ("sago", True),
        ("gru", True),
        ("agem", True),
    ],
)
def test_a_formula_is_judged_by_the_bound_that_it_keeps(name, holds, monkeypatch):
    """An update with half of ``alpha |r|^2`` along retain."""
    pair = GradientPair(F, R)
    square = pair.sums.retain_square
    monkeypatch.setattr(GradientPair, "exact", lambda self, name: Angle(square / 2, square, square))
    assert statement("T2").conclusion(ExactCase(pair, name)) == holds


def nan_under_conflict(one):
    def broken(pair):
        update = by(one.promised_by[0])(pair)
        return np.full_like(update, np.nan) if pair.conflicts else update

    return broken


@pytest.mark.parametrize(
    "one", [one for one in STATEMENTS if one.promised_by and one.id != "T11"], ids=lambda one: one.id
)
def test_an_update_that_is_not_finite_is_never_let_through(one):
    found = search(one, nan_under_conflict(one), "float32", 100)
    assert "nan" in str(found.violation)


def test_the_guard_takes_steps_along_any_update():
    found = search(statement("T11"), nan_under_conflict(statement("T11")), "float32", 100)
    assert found.violation is None
    assert found.judged > 0


def test_what_shows_for_any_bits_only_is_found_for_any_bits_only():
    def huge(pair):
        update = by("sago")(pair)
        return -pair.retain if np.abs(pair.retain).max() > 1e30 else update

    for name in ("T1", "X2"):
        assert search(statement(name), huge, "float32", 100).violation is None
        assert search(statement(name), huge, "float32", 100, raw=True).violation is not None


def test_float64_beyond_the_range_of_its_own_products():
    def huge(pair):
        return -pair.retain if np.abs(pair.retain).max() > 1e200 else by("sago")(pair)

    found = search(statement("X2"), huge, "float64", 100, raw=True)
    assert "is negative" in str(found.violation)
    assert checks.from_violation(found.violation)["dtype"] == "float64"


def test_what_shows_in_long_arrays_only_is_found():
    def blocks(pair):
        update = by("sago")(pair)
        update[1024:] = -pair.retain[1024:]
        return update

    found = search(statement("T1"), blocks, "float32", 100)
    assert len(found.violation.retain) in LONG


def test_every_combiner_backend_and_format_is_searched():
    for one in STATEMENTS:
        found = searches.property_searches(one)
        assert len(set(found)) == len(found)
        if not one.runs:
            several = [each.name for combiner in one.promised_by for each in implementations(combiner)]
            several += [each.name for each in toward_retain()] if one.id == "X2" else []
            raws = (False, True) if one.id in ("T1", "T3", "X2") else (False,)
            exact = [f"{name}, not rounded" for name in (*one.promised_by, *one.exact_only)] if one.exact else []
            assert {(each.words, each.dtype, each.raw) for each in found} == {
                *itertools.product(several, FORMATS, raws),
                *itertools.product(exact, FORMATS, [False]),
            }


@pytest.mark.parametrize("one", [one for one in STATEMENTS if one.runs], ids=lambda one: one.id)
def test_every_optimiser_is_searched_and_the_first_one_in_every_format(one):
    several = searches.property_searches(one) if one.promised_by else searches.refuting_searches(one)
    assert {each.combiner for each in several} == set(one.promised_by or [one.combiner])
    assert {each.run for each in several} == set(one.runs)
    first = {
        (each.dtype, each.raw) for each in several if each.run == one.runs[0] and each.combiner == several[0].combiner
    }
    assert first == set(itertools.product(FORMATS, (False, True) if one.raw else (False,)))
    if one.status == "refuted":
        assert {each.run for each in searches.refuting_searches(one)} == set(one.runs)
        assert {each.combiner for each in searches.refuting_searches(one)} == {one.combiner}


def test_the_statements_name_the_optimisers_of_torch():
    """A new optimiser of torch is noticed: does T10 hold for it?"""
    named = {run.family for one in STATEMENTS for run in one.runs} - {"a positive diagonal"}
    known = {name for name in dir(torch.optim) if name[0].isupper()} - {"Optimizer", "LBFGS", "SparseAdam"}
    assert named == known
    variants = [run.name for run in statement("T11").runs]
    assert len(set(variants)) == len(variants)
    for way in ("for-loop", "foreach", "fused"):
        assert any(way in name for name in variants)


@pytest.mark.parametrize("name", available_combiners())
def test_each_implementation_uses_its_own_backend(name, monkeypatch):
    def refuse(*_):
        raise ZeroDivisionError

    for kernel in ("elementwise_", "linear_"):
        monkeypatch.setattr(kernels._dispatch._rust, kernel, refuse)
    pair = GradientPair(F, R)
    by_backend = {one.backend: one.call for one in implementations(name)}
    assert set(by_backend) == {"auto", "eager"} | ({"rust"} if name in reference.COMBINERS else set())
    if "rust" in by_backend:
        np.testing.assert_allclose(by_backend["eager"](pair), by_backend["rust"](pair), rtol=1e-15)
    with pytest.raises(ZeroDivisionError):
        by_backend["auto"](pair)


def test_the_ieee_formats_are_those_of_the_arrays():
    assert set(solver.IEEE_FORMATS) == set(FORMATS)
    for name, (exponent, significand) in solver.IEEE_FORMATS.items():
        info = ml_dtypes.finfo(FORMATS[name])
        assert (info.nexp, info.nmant + 1) == (exponent, significand)


def test_verify_runs_every_proof(monkeypatch):
    monkeypatch.setattr(solver, "_decide", lambda *_: ("proved", {}))  # tests of the solver prove them
    words = [proof.words for proof in solver.prove_statement(statement("T1"))]
    rounded = [f"{combiner} rounded in {name}" for name in FORMATS for combiner in ("sago", "sago_keep_retain")]
    assert sorted(words) == sorted([*(claim.words for claim in statement("T1").claims), *rounded])
    assert checks.solver_units(statement("T1")) == len(words)


def test_the_ieee_proof_is_for_all_weights_and_says_never_nan(monkeypatch):
    """If gradients may be infinite, the update may be NaN: 0 times infinity, which needs a weight of 0."""
    import z3

    monkeypatch.setattr(z3, "fpIsInf", lambda x: z3.BoolVal(False))
    proof = solver.prove_t1_in_ieee("sago", "float16")
    assert proof.verdict == "refuted"
    assert {"alpha", "gamma"} <= set(proof.model)


def test_real_gradients_are_judged(monkeypatch):
    real = checks.RealGradients("two numbers", 1.0, [{"w": (torch.tensor([1.0, -3.0]), torch.tensor([1.0, 1.0]))}])
    good = checks.by_real_gradients(statement("T1"), real, lambda units: None)
    assert (good.verdict, good.count) == ("holds", 4)  # the tensor and the whole model, by two combiners
    monkeypatch.setattr(checks, "combine", lambda f, r, combiner, **weights: -r)
    assert checks.by_real_gradients(statement("T1"), real, lambda units: None).verdict == "refuted"
    nothing = replace(statement("T1"), hypothesis=lambda case: False)
    assert checks.by_real_gradients(nothing, real, lambda units: None).verdict == "vacuous"


def test_real_gradients_are_judged_step_after_step():
    """With AdamW the third step remembers the first two: plain addition, guarded, and the guard left out."""
    first = (torch.tensor([3.0, -3.0, 1.0]), torch.tensor([1.0, 1.0, -1.0]))
    real = checks.RealGradients("three numbers", 1.0, [{"w": first}, {"w": first}, {"w": (first[0], -first[1])}])
    one = statement("T11")
    good = checks.by_real_gradients(one, real, lambda units: None)
    assert (good.verdict, good.count) == ("holds", 3 * 2 * 2)  # steps, the tensor and the whole model, combiners
    unguarded = replace(one, promised_by=("sum",), runs=(replace(one.runs[0], guard=None),))
    bad = checks.by_real_gradients(unguarded, real, lambda units: None)
    assert bad.verdict == "refuted"
    assert "sum, w: parameter[" in bad.details[0]


@pytest.mark.parametrize(
    "claim", [*statement("X3").claims, *statement("X4").claims], ids=lambda claim: claim.words[:20]
)
def test_a_refutation_by_numbers_is_replayed_in_fractions(claim):
    numbers = solver.step_counterexample(claim)
    for names in (" ".join(map(" ".join, claim.steps)), claim.start):
        assert all(numbers[name].denominator == 1 and abs(numbers[name]) <= 8 for name in names.split())
    assert set(numbers) == set(claim.unknowns.split())
    true = replace(claim, conclude=lambda v: [v.f1 == v.f1] if "f1" in claim.unknowns else [v.f == v.f])
    assert solver.step_counterexample(true) is None
    assert solver.step_counterexample(replace(claim, steps=())) is None


@pytest.mark.parametrize("name", ["X3", "X4"])
def test_a_refutation_by_numbers_is_replayed_with_the_optimiser(name):
    one = statement(name)
    found = from_solver(one)
    taken = found["step"]
    assert Fraction(taken["dot_product"]) > 0
    before, after, r = (np.array(x, "float32") for x in (taken["before"], taken["after"], found["retain"]))
    assert reference.dot(after, r) - reference.dot(before, r) == Fraction(taken["dot_product"])
    assert from_solver(replace(one, runs=(replace(one.runs[0], guard=BY_RETAIN),))) is None
    assert from_solver(replace(one, claims=statement("T9").claims)) is None


def test_vectors_that_the_library_does_not_replay_are_no_counterexample(monkeypatch):
    monkeypatch.setattr(reference, "combine", lambda f, r, name, *_, **__: r if name == "sago" else f)
    assert from_solver(statement("X1")) is None


def test_an_interrupted_report_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "found.json"
    files.write_json(file, {"old": 1})

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(file), "replace", fail)
    with pytest.raises(RetainFirstError, match="disk full"):
        files.write_json(file, {"new": 2})
    assert "old" in file.read_text()


def test_a_link_to_a_report_stays_one(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("{}")
    link.symlink_to(target)
    files.write_json(link, {"new": 2})
    assert link.is_symlink()
    assert "new" in target.read_text()
