"""Measuring every few steps, and stopping."""

from types import SimpleNamespace

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst.hf import EvaluateEvery


def trained(callback, steps):
    """Run the callback as a trainer does; return the history and the step at which training stops."""
    state, control = SimpleNamespace(global_step=0, log_history=[]), SimpleNamespace(should_training_stop=False)
    for state.global_step in range(1, steps + 1):
        callback.on_step_end(None, state, control, model=state.global_step)
        if control.should_training_stop:
            break
    return state.log_history, state.global_step


def test_it_measures_and_stops():
    callback = EvaluateEvery(lambda model: {"recall": 1 / model}, 3, lambda found: found["recall"] < 0.2)
    history, last = trained(callback, 20)
    assert history == [{"step": 3, "recall": 1 / 3}, {"step": 6, "recall": 1 / 6}]
    assert last == 6


def test_without_a_condition_it_never_stops():
    history, last = trained(EvaluateEvery(lambda model: {"value": 0.0}, 2), 7)
    assert [one["step"] for one in history] == [2, 4, 6]
    assert last == 7


def test_every_is_checked():
    with pytest.raises(RetainFirstError, match="every must be at least 1, found 0"):
        EvaluateEvery(lambda model: {}, 0)
