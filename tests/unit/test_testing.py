"""check_combiner passes right combiners, reports wrong ones with a shrunk pair, and refuses functions that are no combiners."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import retainfirst as rf
from retainfirst.errors import DtypeMismatch, NonFiniteGradient, RetainFirstError, ShapeMismatch
from retainfirst.testing import StatementViolated, check_combiner
from retainfirst.theory import STATEMENTS, statement
from retainfirst.theory.arrays import FORMATS


def sago(forget, retain):
    return torch.where(torch.sign(forget) * torch.sign(retain) < 0, retain, forget)


def keep(forget, retain):
    return torch.where(torch.sign(forget) * torch.sign(retain) < 0, retain, forget + retain)


def product(forget, retain):
    return torch.where(forget * retain < 0, retain, forget)


def plain_pcgrad(forget, retain):
    """The common way to write it: in the dtype of the gradients."""
    dot = (forget * retain).sum()
    return retain + (forget - dot / (retain * retain).sum() * retain if dot < 0 else forget)


def total(forget, retain):
    return forget + retain


def guarded_pcgrad(forget, retain):
    """With a constant against division by zero that is large beside real gradients."""
    dot = (forget * retain).sum()
    return retain + (forget - dot / ((retain * retain).sum() + 1e-10) * retain if dot < 0 else forget)


def pcgrad_with_a_threshold(forget, retain):
    dot = (forget * retain).sum()
    return retain + (forget - dot / (retain * retain).sum() * retain if dot < -1e-6 else forget)


@pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=() if dtype == "float32" else pytest.mark.slow) for dtype in FORMATS]
)
def test_right_ones_pass(dtype):
    check_combiner(sago, ("T1", "T2", "T3", "T8", "X2"), dtype)
    check_combiner(keep, ("T1", "T2", "T6", "X2"), dtype)
    check_combiner(plain_pcgrad, ("T2", "T4"), dtype)
    check_combiner(lambda forget, retain: retain, ("T1", "T2", "T6", "X2"), dtype)


@pytest.mark.parametrize("one", STATEMENTS, ids=lambda one: one.id)
def test_the_librarys_own_keep_their_promises(one):
    for name in one.promised_by:
        check_combiner(name, [one.id], "bfloat16", 50)
        check_combiner(rf.make_combiner(name, gamma=2.0), [one], torch.float32, 50)


def test_weights_of_a_function_are_told():
    def weighted(forget, retain):
        return rf.combine(forget, retain, "sago", alpha=0.5, gamma=4.0)

    check_combiner(weighted, ("T3", "T5"), alpha=0.5, gamma=4.0)
    with pytest.raises(StatementViolated, match="T3"):
        check_combiner(weighted, ("T3",))


@pytest.mark.parametrize(
    ("fn", "name"),
    [(total, "T1"), (total, "T2"), (total, "T3"), (total, "T6"), (product, "T1"), (plain_pcgrad, "T1"), (plain_pcgrad, "X2"),
     ("pcgrad", "T1"), ("sago", "T6"), ("sago", "X1"), ("blur", "T2"), (guarded_pcgrad, "T2"),
     (pcgrad_with_a_threshold, "T2"), ("pcgrad", "T5"), (rf.Sum(gamma=3.0), "T2")],
)  # fmt: skip
def test_wrong_ones_are_caught_with_a_shrunk_pair(fn, name):
    with pytest.raises(StatementViolated, match=name) as caught:
        check_combiner(fn, (name,))
    error = caught.value
    assert error.statement == name
    assert error.forget.dtype == error.retain.dtype == error.update.dtype == torch.float32
    assert error.forget.shape == error.retain.shape == error.update.shape
    assert len(error.retain) <= (8 if name == "X2" else 4)
    if callable(fn):
        assert torch.equal(fn(error.forget, error.retain), error.update)
        assert fn.__name__ in str(error)
    assert isinstance(error, AssertionError)
    assert "forget = [" in str(error)


def test_the_first_broken_statement_is_named():
    with pytest.raises(StatementViolated) as caught:
        check_combiner(plain_pcgrad, ("T2", "T1"))
    assert caught.value.statement == "T1"


def test_pcgrad_breaks_x2_in_narrow_formats():
    with pytest.raises(StatementViolated) as caught:
        check_combiner("pcgrad", ("X2",), "bfloat16", 2000)
    f, r = (x.double() for x in (caught.value.forget, caught.value.retain))
    assert caught.value.update.double() @ r < 0
    assert f.norm() > 100 * r.norm()


def strided(forget, retain):
    update = sago(forget, retain)
    return torch.stack([update, update], 1)[:, 0]


def test_results_need_not_be_contiguous():
    check_combiner(strided, ("T1", "T2", "T3"), max_examples=20)


def by_numpy(forget, retain):
    f, r = forget.numpy(), retain.numpy()
    return np.where(np.sign(f) * np.sign(r) < 0, r, f)


def test_results_may_be_numpy_arrays():
    check_combiner(by_numpy, ("T1",), max_examples=20)


def in_place(forget, retain):
    return retain.add_(forget)


def changes_forget(forget, retain):
    forget[0] = 1.0
    return retain


calls = iter(range(10**9))


def random(forget, retain):
    return retain * (1 if next(calls) % 7 else -1)


@pytest.mark.parametrize(
    ("fn", "error", "text"),
    [
        (lambda f, r: r[:-1], ShapeMismatch, r"<lambda>: the update has shape \(\d+,\), the gradients \(\d+,\)"),
        (lambda f, r: r.reshape(1, -1), ShapeMismatch, r"shape \(1, \d+\)"),
        (lambda f, r: r.double(), DtypeMismatch, "the update is float64, the gradients float32"),
        (lambda f, r: r.numpy().astype(np.float64), DtypeMismatch, "float64"),
        (lambda f, r: None, DtypeMismatch, "returned a NoneType"),
        (lambda f, r: r.tolist(), DtypeMismatch, "returned a list"),
        (lambda f, r: r / 0 * 0, NonFiniteGradient, r"update\[0\] = nan"),
        (lambda f, r: torch.full_like(r, torch.inf), NonFiniteGradient, r"update\[0\] = inf"),
        (in_place, RetainFirstError, "in_place: changes its retain gradient"),
        (changes_forget, RetainFirstError, "changes_forget: changes its forget gradient"),
        (random, RetainFirstError, "random: gave different updates"),
        ("sagoo", RetainFirstError, "Did you mean 'sago'"),
        (3, RetainFirstError, "give a function, a combiner or a combiner's name, not 3"),
    ],
)
def test_functions_that_are_no_combiners(fn, error, text):
    with pytest.raises(error, match=text) as caught:
        check_combiner(fn, ("T1",))
    assert not isinstance(caught.value, StatementViolated)


def test_what_a_function_raises_passes_on():
    def broken(forget, retain):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        check_combiner(broken)
    assert "broken raised this for forget = [" in caught.value.__notes__[0]


def test_names_of_partials_and_objects():
    class Combine:
        def __call__(self, forget, retain):
            return forget

    for fn, name in ((functools.partial(total), "total"), (Combine(), "Combine")):
        with pytest.raises(StatementViolated, match=f"hold for {name} in"):
            check_combiner(fn, ("T2",))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"statements": ("T99",)}, "Unknown statement 'T99'.*Known: T1"),
        ({"dtype": "float23"}, "unknown dtype 'float23'. Did you mean 'float32'"),
        ({"dtype": torch.int8}, "int8"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"gamma": -1.0}, "gamma must be"),
        ({"statements": ("X1",), "gamma": 2.0}, "none of the drawn pairs met the hypothesis of X1"),
        ({"max_examples": 0}, "max_examples"),
        ({"max_examples": 1.5}, "max_examples"),
        ({"statements": ()}, "statements is empty"),
        ({"statements": "T1"}, "statements"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(RetainFirstError, match=text):
        check_combiner(sago, **options)


def test_without_hypothesis_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(rf.MissingDependency, match=r"retainfirst\[verify\]"):
        check_combiner(sago)


def test_statements_are_found_by_number():
    about_updates = ["T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "X1", "X2"]
    about_steps = ["T9", "T10", "T11", "T12", "X3", "X4"]
    assert [one.id for one in STATEMENTS] == about_updates + about_steps
    assert [one.id for one in STATEMENTS if one.runs] == about_steps
    assert statement("T5") is STATEMENTS[4]
    assert statement("t5") is STATEMENTS[4]
    for bad in ("T", "", None, 5):
        with pytest.raises(RetainFirstError, match="Unknown statement"):
            statement(bad)
