"""The guard's own time within a step; the clock is made by hand."""

from __future__ import annotations

import pytest

from retainfirst import kernels
from retainfirst.step import Guard
from retainfirst_lab.bench import guard, model, timing


def test_a_measured_step_counts_once_in_ten():
    sample = timing.Sample
    assert guard._mean(sample(20.0, 30.0), sample(10.0, 10.0), 10) == sample(11.0, 12.0)
    assert guard._mean(sample(None, 30.0), sample(None, 10.0), 10) == sample(None, 12.0)


@pytest.mark.parametrize(("every", "expected"), [(1, 1.25), (10, 1.025)])
def test_the_guards_own_time_is_compared_with_the_rest_of_its_step(every, expected):
    steps = [(timing.Sample(9.0, 9.0), timing.Sample(8.0, 8.0))]  # the first warms up
    steps += [(timing.Sample(10.0, 20.0), timing.Sample(2.0, 4.0))] * 3
    found = guard._within(steps, every)
    assert found["cpu_ratio"]["median"] == found["wall_ratio"]["greatest"] == pytest.approx(expected, rel=1e-15)
    on_a_gpu = [(timing.Sample(None, total.wall), timing.Sample(None, inside.wall)) for total, inside in steps]
    assert guard._within(on_a_gpu, every) == {**found, "cpu_ratio": None}


def test_a_stopwatch_adds_up_its_parts(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    stopwatch = timing.Stopwatch("cpu")
    part = stopwatch.timed(lambda x: next(clock) and x)  # one tick passes inside, and one at each end
    assert (part(3), part(4)) == (3, 4)
    assert stopwatch.take().wall == 4.0
    assert stopwatch.take().wall == 0.0


@pytest.mark.parametrize("name", ["", "idle", "measure", "enforce"])
def test_the_stopwatch_of_a_guarded_step_stands_around_all_that_its_guard_does(name, monkeypatch):
    """The clock advances where the guard copies and where its pass runs, and nowhere else."""
    seconds = 0.0

    def advance(function):
        def timed(*arguments, **options):
            nonlocal seconds
            seconds += 1.0
            return function(*arguments, **options)

        return timed

    monkeypatch.setattr(timing.time, "perf_counter", lambda: seconds)
    monkeypatch.setattr(Guard, "_copy", advance(Guard._copy))
    monkeypatch.setattr(kernels, "guard_", advance(kernels.guard_))
    training = model.make_guarded(model.make_model("cpu", small=True), "pcgrad", model.Shape(1, 4))
    training.set_guard("enforce")
    training.set_guard(name)
    for _ in range(2):
        seconds = 0.0
        training.run()
        assert training.stopwatch.take().wall == seconds
        assert (seconds > 0) == (name in ("measure", "enforce"))
