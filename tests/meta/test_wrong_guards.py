"""Guards that are wrong on purpose are caught by T11 or T12, in every format; the right ones pass."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

import oracle
from retainfirst.theory import statement
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.guards import BY_RETAIN, BY_UPDATE, JudgedGuard
from retainfirst.theory.implementations import implementations
from retainfirst.theory.search import search

T11, T12 = statement("T11"), statement("T12")
DECAY = 1 - 2.0**-6  # of one step of T11's first optimiser, AdamW


def against(old, new, sign):
    return ((new > old) & (sign > 0)) | ((new < old) & (sign < 0))


def each(rule):
    """A guard that makes ``rule(before, after, read)`` of each tensor."""

    @functools.wraps(rule)
    def call(before, after, read):
        for old, new, sign in zip(before, after, read, strict=True):
            new.copy_(rule(old, new, sign))

    return call


@each
def compares_with_the_update(old, new, sign):
    """Reads ``.grad`` for a combiner whose update need not have retain's signs."""
    return oracle.guard_by_update(old, new, sign)


@each
def forgets_that_the_update_is_zero(old, new, sign):
    return torch.where(against(old, new, sign), old, new)


@each
def puts_back_at_zero_too(old, new, sign):
    """``>=`` in place of ``>``."""
    return torch.where(((new >= old) & (sign >= 0)) | ((new <= old) & (sign <= 0)), old, new)


@each
def reads_the_parameters_after_weight_decay(old, new, sign):
    return oracle.guard(old * DECAY, new, sign)


def skips_the_last_group(before, after, read):
    for old, new, sign in list(zip(before, after, read, strict=True))[:-1]:
        new.copy_(oracle.guard(old, new, sign))


@each
def multiplies(old, new, sign):
    """The product of small numbers underflows to zero."""
    return torch.where((new - old) * sign > 0, old, new)


@each
def keeps_the_wrong_ones(old, new, sign):
    return torch.where(against(old, new, sign), new, old)


@each
def goes_to_zero(old, new, sign):
    return torch.where(against(old, new, sign), torch.zeros_like(old), new)


@each
def puts_everything_back(old, new, sign):
    return old


def does_nothing(before, after, read):
    pass


@each
def projects(old, new, sign):
    """Takes the component along retain out of the whole step, and rounds."""
    step, r = (new - old).double(), sign.double()
    dot, square = (step * r).sum(), (r * r).sum()
    return (old.double() + step - dot / square * r).to(old.dtype) if dot > 0 else new


# Each wrong guard, the statement that it claims, and the combiner.
WRONG = [
    (compares_with_the_update, T11, "pcgrad"),
    (forgets_that_the_update_is_zero, T12, "sago"),
    (forgets_that_the_update_is_zero, T12, "sago_keep_retain"),
    (puts_back_at_zero_too, T11, "sum"),
    (reads_the_parameters_after_weight_decay, T11, "sum"),
    (skips_the_last_group, T11, "sum"),
    (skips_the_last_group, T12, "sago"),
    (multiplies, T11, "sum"),
    (keeps_the_wrong_ones, T11, "sum"),
    (goes_to_zero, T11, "sum"),
    (puts_everything_back, T11, "sum"),
    (puts_everything_back, T12, "sago"),
    (does_nothing, T11, "sum"),
    (does_nothing, T12, "sago"),
    (projects, T11, "pcgrad"),
]


def found(call, claimed, combiner, dtype, reads=None, examples=100):
    [first, *_] = claimed.runs
    guard = JudgedGuard("a guard", reads or first.guard.reads, call)
    one = replace(claimed, runs=(replace(first, guard=guard),))
    return search(one, implementations(combiner)[0].call, dtype, examples, name=combiner, shrink=False).violation


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("call", "claimed", "combiner"),
    WRONG,
    ids=[f"{call.__name__}-{claimed.id}-{combiner}" for call, claimed, combiner in WRONG],
)
def test_caught(call, claimed, combiner, dtype):
    reads = "update" if call is compares_with_the_update else None
    violation = found(call, claimed, combiner, dtype, reads)
    assert violation is not None
    assert violation.statement == claimed.id
    assert "parameter[" in str(violation)


@pytest.mark.parametrize(
    ("guard", "claimed", "combiner"),
    [(BY_RETAIN, T11, "pcgrad"), (BY_RETAIN, T11, "sum"), (BY_UPDATE, T12, "sago"), (BY_UPDATE, T12, "sago_keep_retain")],
)  # fmt: skip
def test_the_right_ones_pass(guard, claimed, combiner):
    for dtype in FORMATS:
        assert found(guard.call, claimed, combiner, dtype, examples=20) is None


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_guard_by_update_is_for_sago_only(dtype):
    """Plain addition has other signs than retain where the gradients oppose."""
    assert found(BY_UPDATE.call, T11, "sum", dtype, "update") is not None
