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
    examples = 10 if one.runs else 50  # a step costs more, and tests/property has them all
    for name in one.promised_by:
        check_combiner(name, [one.id], "bfloat16", examples)
        check_combiner(rf.make_combiner(name, gamma=2.0), [one], torch.float32, examples)


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


def without_decay(parameters):
    return torch.optim.AdamW(parameters, weight_decay=0.0)


@pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=() if dtype == "float32" else pytest.mark.slow) for dtype in FORMATS]
)
@pytest.mark.parametrize("fn", [sago, keep, "sago", rf.SAGO(keep_retain=True, gamma=4.0)])
def test_a_promise_survives_an_optimiser(fn, dtype):
    check_combiner(fn, dtype=dtype, max_examples=40, optimizer=without_decay, steps=1)
    check_combiner(fn, ("T1", "T2", "T9", "X4"), dtype, 40, optimizer=torch.optim.SGD)


@pytest.mark.parametrize(
    ("fn", "name", "optimizer", "steps", "broken"),
    [
        ("sago", "T1", torch.optim.AdamW, 1, "T10"),  # decay
        (sago, "T1", without_decay, 3, "T10"),  # momentum
        (sago, "T2", functools.partial(torch.optim.SGD, momentum=0.9), 3, "X3"),
        (plain_pcgrad, "T2", without_decay, 1, "X3"),
        (rf.PCGrad(scope="global"), "T2", torch.optim.RMSprop, 1, "X3"),
        (plain_pcgrad, "T1", torch.optim.SGD, 1, "T10"),
        (total, "T2", torch.optim.SGD, 1, "X3"),
        ("sago", "T10", torch.optim.Muon, 1, "T10"),
        ("sago", "X4", torch.optim.ASGD, 1, "X4"),
        (plain_pcgrad, "T12", torch.optim.SGD, 2, "T12"),
    ],
)
def test_a_promise_that_an_optimiser_breaks_is_reported_with_the_step(fn, name, optimizer, steps, broken):
    with pytest.raises(StatementViolated, match=broken) as caught:
        check_combiner(fn, (name,), optimizer=optimizer, steps=steps)
    error = caught.value
    assert error.statement == broken
    assert f"with {error.optimizer}" in str(error)
    assert "before = [" in str(error)
    assert "after = [" in str(error)
    assert error.before.shape == error.after.shape == error.retain.shape
    assert error.before.dtype == error.after.dtype == torch.float32
    assert len(error.earlier) == steps - 1
    if broken != "T12":
        r, before, after = (x.double() for x in (error.retain, error.before, error.after))
        assert ((after - before) * r).max() > 0
    if broken == "X3":
        assert (after - before) @ r > 0
    if callable(fn):
        assert torch.equal(fn(error.forget, error.retain), error.update)


def test_the_step_of_a_violation_can_be_replayed():
    with pytest.raises(StatementViolated) as caught:
        check_combiner(sago, ("T1",), optimizer=without_decay)
    error = caught.value
    assert len(error.retain) <= 3
    parameter = torch.tensor([[0.5, -0.25, 0.0][: len(error.retain)]], requires_grad=True)
    optimizer = without_decay([parameter])
    for forget, retain in [*error.earlier, (error.forget, error.retain)]:
        before = parameter.detach().clone()
        parameter.grad = sago(forget, retain)[None]
        optimizer.step()
    assert torch.equal(before[0], error.before)
    assert torch.equal(parameter.detach()[0], error.after)


def test_guards_keep_the_promise_of_every_optimiser():
    for optimizer in (torch.optim.AdamW, torch.optim.Muon, functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)):
        check_combiner("pcgrad", ("T11",), max_examples=40, optimizer=optimizer)
        check_combiner("sago", ("T11", "T12"), max_examples=40, optimizer=optimizer)


def random_step(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    optimizer.register_step_post_hook(lambda *_: [p.data.add_(torch.randn_like(p)) for p in parameters])
    return optimizer


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"optimizer": torch.optim.SGD([torch.zeros(1)])},
            r"optimizer is a made SGD; give what makes it.*torch\.optim\.SGD",
        ),
        ({"optimizer": "AdamW"}, "class or a function from parameters to an optimiser, not 'AdamW'"),
        (
            {"optimizer": lambda parameters: None},
            r"\(<lambda>\) returned a NoneType; it must return a torch.optim.Optimizer",
        ),
        ({"optimizer": lambda parameters: torch.optim.SGD(parameters[:1])}, "leaves out parameters"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS needs a closure"),
        ({"optimizer": random_step}, "random_step: took different steps"),
        ({"optimizer": torch.optim.SGD, "steps": 0}, "steps must be a whole number from 1 on, not 0"),
        ({"optimizer": torch.optim.SGD, "steps": True}, "steps must be a whole number from 1 on, not True"),
        (
            {"optimizer": torch.optim.SGD, "statements": ("T5",)},
            "T5 is about updates.*give T1, T2, T9 to T12, X3 or X4",
        ),
    ],
)
def test_bad_optimisers(options, text):
    with pytest.raises(RetainFirstError, match=text) as caught:
        check_combiner(sago, **options)
    assert not isinstance(caught.value, StatementViolated)


def test_what_an_optimiser_raises_passes_on():
    with pytest.raises(RuntimeError, match="dense gradients"):
        check_combiner(sago, optimizer=torch.optim.SparseAdam)
