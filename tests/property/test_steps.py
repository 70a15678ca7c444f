"""Real optimisers of torch, as they store their parameters: T9 to T12, X3 and X4.

The signs of steps are compared as stored, and ``<d, r>`` is exact. Unmarked tests run each optimiser in one format, those marked
slow in all four.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from retainfirst import reference
from retainfirst.theory import runs, statement
from retainfirst.theory.arrays import FORMATS, as_array
from retainfirst.theory.cases import StepCase
from retainfirst.theory.guards import BY_RETAIN, BY_UPDATE
from retainfirst.theory.implementations import implementations
from retainfirst.theory.search import search
from retainfirst.theory.steps import history, take
from retainfirst.theory.sums import GradientPair

T9, T10, T11, T12, X3, X4 = (statement(name) for name in ("T9", "T10", "T11", "T12", "X3", "X4"))
SIX = ("Adam", "AdamW", "RMSprop", "Adagrad", "Adafactor", "SGD")


def cases(several):
    """Each run in all formats, all but one of them slow; ``(run, dtype)``."""
    formats = list(FORMATS)
    return [
        pytest.param(run, dtype, id=f"{run.name}-{dtype}", marks=() if dtype == formats[i % 4] else pytest.mark.slow)
        for i, run in enumerate(several)
        for dtype in formats
    ]


def call(combiner):
    """The Rust reference where there is one: the fastest."""
    return implementations(combiner)[0].call


def judge(one, combiner, run, dtype, domains=("free", "zeros", "strong", "subnormal")):
    few = max(1, settings.default.max_examples // 4)
    found = search(replace(one, domains=domains), call(combiner), dtype, few, run=run, name=combiner)
    if found.violation is not None:
        raise found.violation
    assert found.judged > 0


@pytest.mark.parametrize("combiner", T9.promised_by)
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_positive_diagonal(combiner, dtype):
    judge(T9, combiner, T9.runs[0], dtype, domains=())


@pytest.mark.parametrize("combiner", T10.promised_by)
@pytest.mark.parametrize(("run", "dtype"), cases(T10.runs))
def test_optimisers_without_memory(combiner, run, dtype):
    judge(T10, combiner, run, dtype)


@pytest.mark.parametrize(("run", "dtype"), cases(T11.runs))
def test_the_guard_of_every_optimiser(run, dtype):
    judge(T11, "sum", run, dtype)


@pytest.mark.parametrize("dtype", [pytest.param(d, marks=() if d == "bfloat16" else pytest.mark.slow) for d in FORMATS])
@pytest.mark.parametrize("combiner", T11.promised_by)
def test_the_guard_of_every_combiner(combiner, dtype):
    judge(T11, combiner, T11.runs[0], dtype, domains=())


@pytest.mark.parametrize("combiner", T12.promised_by)
@pytest.mark.parametrize(("run", "dtype"), cases(T12.runs))
def test_sagos_guard_reads_the_update(combiner, run, dtype):
    judge(T12, combiner, run, dtype)


@pytest.mark.parametrize("reads", ["retain", "update"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_the_guards_for_any_bits_of_a_run(reads, dtype):
    one, combiner = (T11, "sum") if reads == "retain" else (T12, "sago")
    found = search(one, call(combiner), dtype, settings.default.max_examples, raw=True)
    assert found.violation is None


@pytest.mark.parametrize(("guard", "written_out"), [(BY_RETAIN, oracle.guard), (BY_UPDATE, oracle.guard_by_update)])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@given(data=st.data())
def test_the_guards_are_the_written_out_ones(guard, written_out, dtype, data):
    """Any bits: infinities, both zeros, and NaN, which stays where the optimiser or the gradient brought it."""
    sizes = data.draw(st.sampled_from([(1,), (3, 5), (9, 1, 16)]))
    before, after, read = ([data.draw(oracle.raw_bits(dtype, n)) for n in sizes] for _ in range(3))
    for some in (after, read):  # equal numbers and zeros are rare among any bits
        index = data.draw(st.integers(0, sizes[0] - 1))
        some[0][index] = data.draw(st.sampled_from([before[0][index].item(), 0.0, -0.0]))
    expected = [written_out(*tensors) for tensors in zip(before, after, read, strict=True)]
    kept = [x.clone() for x in (*before, *read)]
    guard.call(before, after, read)
    for found, wanted, old in zip(after, expected, before, strict=True):
        assert oracle.same_bits(found, wanted)
        assert not (found.isnan() & ~wanted.isnan() & ~old.isnan()).any()
    assert all(oracle.same_bits(x, y) for x, y in zip(kept, (*before, *read), strict=True))


@pytest.mark.parametrize("guard", [BY_RETAIN, BY_UPDATE], ids=lambda guard: guard.reads)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_nan_is_never_put_back(guard, dtype):
    nan = torch.nan
    before, after, read = (
        torch.tensor(x, dtype=dtype) for x in ([1.0, 1.0, nan, 1.0, 1.0], [nan, 2.0, 2.0, nan, 0.0], [1.0, nan, 1.0, 0.0, nan])
    )  # fmt: skip
    moved = after.clone()
    guard.call([before], [after], [read])
    assert oracle.same_bits(after, moved)


@pytest.mark.parametrize("run", T10.runs, ids=lambda run: run.name)
@pytest.mark.parametrize("combiner", T10.promised_by)
def test_the_guard_changes_nothing_where_t10_applies(combiner, run):
    for seed in range(3):
        f, r = (as_array(x) for x in oracle.gradients(60, torch.float32, seed))
        step = take(call(combiner), replace(run, guard=BY_RETAIN), history(GradientPair(f, r), run.steps))
        assert step.after.tobytes() == step.moved.tobytes()


@pytest.mark.parametrize("combiner", X3.promised_by)
@pytest.mark.parametrize("dtype", FORMATS)
def test_sagos_step_is_never_against_retention(combiner, dtype):
    for run in X3.runs:
        judge(X3, combiner, run, dtype, domains=X3.domains)


@pytest.mark.parametrize(("run", "dtype"), cases(X3.runs))
def test_pcgrads_step_is(run, dtype):
    found = search(X3, call("pcgrad"), dtype, 200, run=run, shrink=False)
    assert found.violation is not None
    assert found.violation.optimizer == run.name
    r, before, after = (as_array(x) for x in (found.violation.retain, found.violation.before, found.violation.after))
    assert reference.dot(after, r) > reference.dot(before, r)


@pytest.mark.parametrize(("run", "dtype"), cases(X4.runs))
def test_memory_and_decay_break_sagos_guarantee(run, dtype):
    found = search(X4, call("sago"), dtype, 200, run=run, shrink=False)
    assert found.violation is not None
    assert len(found.violation.earlier) == run.steps - 1


@pytest.mark.parametrize("run", [*runs.MIXING, *runs.WITH_MEMORY_OR_DECAY], ids=lambda run: run.name)
def test_t10_is_not_claimed_for_what_breaks_it(run):
    """Muon mixes coordinates, even at its first step without decay."""
    if run.family == "Muon":
        run = replace(run, make=lambda parameters: torch.optim.Muon(parameters, lr=0.1, weight_decay=0.0), steps=1)
    found = search(T10, call("sago"), "float32", 200, run=run, shrink=False)
    assert found.violation is not None


def first_step(name, combiner, **options):
    """``<d, r>`` of X3's example, exactly, with an optimiser's own defaults."""
    pair = GradientPair(np.array([5.0, -5.0]), np.array([1.0, 2.0]))
    assert call("pcgrad")(pair).tolist() == [7.0, -1.0]
    run = runs.Run(name, name, lambda parameters: getattr(torch.optim, name)(parameters, **options))
    return StepCase(pair, combiner, take(call(combiner), run, [pair], np.zeros(2))).dot


@pytest.mark.parametrize("name", SIX)
def test_the_example_of_x3(name):
    """``r = (1, 2)`` and ``f = (5, -5)``: PCGrad's u is (7, -1), and Adam steps along its signs."""
    options = {"weight_decay": 0.0} if name == "AdamW" else {}
    assert (first_step(name, "pcgrad", **options) > 0) == (name != "SGD")
    for combiner in X3.promised_by:
        assert first_step(name, combiner, **options) < 0


def test_the_examples_of_x4():
    """Momentum: after ``r = f = 1`` Adam's first moment is 0.08 at ``r = -0.1``. Decay: theta > 0, r < 0, and u = 0."""
    pairs = [GradientPair(np.array([f]), np.array([r])) for f, r in ((1.0, 1.0), (0.1, -0.1))]
    adam = runs.Run("Adam", "Adam", torch.optim.Adam)
    step = take(call("sago"), adam, pairs)
    assert step.update.tolist() == [-0.1]
    assert StepCase(pairs[-1], "sago", step).dot > 0
    still = GradientPair(np.array([0.0]), np.array([-1.0]))
    step = take(call("sago"), runs.Run("AdamW", "AdamW", torch.optim.AdamW), [still])
    assert (step.update.item(), step.before.item()) == (0.0, 0.5)
    assert StepCase(still, "sago", step).dot > 0


def test_a_run_is_what_torch_computes():
    """Three steps of AdamW on two parameters, by hand."""
    pair = GradientPair(*(as_array(x) for x in oracle.gradients(7, torch.float32)))
    run = next(one for one in X4.runs if one.name.startswith("AdamW"))
    taken = take(call("sum"), run, history(pair, run.steps))
    start = np.array([0.5, -0.25, 0.0, 0.03125, -2.0, 0.5, -0.25], np.float32)
    vector, matrix = (torch.tensor(x, requires_grad=True) for x in (start[:2], start[2:].reshape(1, 5)))
    optimizer = torch.optim.AdamW([vector, matrix], lr=2**-4, weight_decay=0.25, foreach=False)
    for ago in (2, 1, 0):
        f, r = np.roll(pair.forget, ago), np.roll(-pair.retain if ago == 1 else pair.retain, ago)
        u = torch.tensor(f + r)
        vector.grad, matrix.grad = u[:2], u[2:].reshape(1, 5)
        before = torch.cat([vector.detach(), matrix.detach().reshape(-1)]).clone()
        optimizer.step()
    after = torch.cat([vector.detach(), matrix.detach().reshape(-1)])
    assert taken.update.tolist() == u.tolist()
    assert (taken.before.tolist(), taken.after.tolist()) == (before.tolist(), after.tolist())
    assert [len(taken.earlier), taken.moved.tolist()] == [2, after.tolist()]


def test_starts_with_every_sign():
    assert {np.sign(x) for x in take(call("sum"), T9.runs[0], [GradientPair(np.ones(5), np.ones(5))]).before} == {
        -1,
        0,
        1,
    }
