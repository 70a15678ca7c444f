"""The time of the guard: one pass over the parameters, and a training step with AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from retainfirst import _rust, kernels
from retainfirst.errors import RetainFirstError, require
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.model import Shape, make_guarded, make_model
from retainfirst_lab.bench.timing import LEAD, Case, Sample, Stopwatch, clock_for, ratios, rounds_of, spread

__all__ = ["EVERY", "PASS_ROUNDS", "RULES", "Plan", "measure"]

RULES = ("sago", "pcgrad")
"""SAGO's guard reads ``.grad``; the others' keeps a copy of the retain gradient."""

PASS_ROUNDS = 5
"""A pass is much shorter than a step, so it is measured this many times as often."""

EVERY = 10
"""The trainers measure each step of which the number is a multiple of it."""

# Reads and writes of an element: before, after and retain are read, after is written; measuring reads the forget gradient too.
_MOVED = {"put back": 4, "put back and measured": 5}
_ARRAYS = 5

Tick = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        elements: Parameters of the pass.
        threads: Numbers of threads of the pass, each measured; a GPU uses the first only. The step has as many as torch uses.
        rounds: Rounds of each step; of each pass :data:`PASS_ROUNDS` times as many.
        batch: Rows of a step, for each task.
        length: Tokens of a row.
        device: ``"cpu"`` or ``"cuda"``.
        small: Use a tiny model, for a quick try.
    """

    elements: int = 10**8
    threads: Sequence[int] = (1, 2)
    rounds: int = 7
    batch: int = 4
    length: int = 128
    device: str = "cpu"
    small: bool = False

    def __post_init__(self) -> None:
        machine.check_device(self.device)
        require("transformers", "hf")
        if not self.threads or min(self.elements, *self.threads, self.rounds) < 1:
            raise RetainFirstError("Elements, threads and rounds must be given, and be 1 or more")
        machine.check_room(f"{self.elements:,} elements", self.elements * _ARRAYS * 4, self.device)

    @property
    def steps(self) -> int:
        """The number of calls of ``tick``."""
        return self.rounds * (PASS_ROUNDS * len(self._used_threads) + len(RULES))

    @property
    def _used_threads(self) -> Sequence[int]:
        return self.threads if self.device == "cpu" else self.threads[:1]


def measure(plan: Plan, tick: Tick = lambda _: None) -> dict[str, Any]:
    """Run the benchmark and return the report.

    Args:
        plan: What to measure.
        tick: Called with the name of the running case, :attr:`Plan.steps` times.
    """
    passes = [row for count in plan._used_threads for row in _passes(plan, count, tick)]
    model = make_model(plan.device, small=plan.small)
    steps = [row for rule in RULES for row in _steps(plan, model, rule, tick)]
    return {
        "benchmark": "guard",
        **machine.describe(plan.device),
        "threads": list(plan._used_threads),
        "rounds": plan.rounds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": [plan.batch, plan.length],
        "passes": passes,
        "steps": steps,
    }


def _passes(plan: Plan, threads: int, tick: Tick) -> Iterator[dict[str, Any]]:
    """The limit of a pass is the time of a plain loop in the same round, times the share of numbers that it moves."""
    generator = torch.Generator(plan.device).manual_seed(0)
    before, after, forget, retain = (
        torch.randn(plan.elements, generator=generator, device=plan.device) for _ in range(4)
    )
    after.mul_(1e-3).add_(before)
    kept = after.clone()
    plain, moved = _plain(before, after)
    works: dict[str, Callable[[], object]] = {
        "limit": plain,
        "put back": lambda: kernels.guard_([before], [after], signs=[retain]),
        "put back and measured": lambda: kernels.guard_(
            [before], [after], signs=[retain], gradients=([forget], [retain])
        ),
    }
    # Half of the coordinates are put back in each measurement.
    cases = {name: Case(work, lambda: after.copy_(kept)) for name, work in works.items()}
    with machine.threads(threads):
        clock = clock_for(plan.device, LEAD)
        samples = rounds_of(cases, PASS_ROUNDS * plan.rounds, clock, tick=lambda: tick(f"{threads} thread(s)"))
    seconds = spread([one.wall for one in samples["limit"]])["median"]
    for case, count in _MOVED.items():
        yield {
            "case": case,
            "threads": threads,
            "elements": plan.elements,
            "seconds": spread([one.wall for one in samples[case]]),
            "gb_s": moved * after.nbytes / seconds / 1e9,
            **ratios(samples[case], samples["limit"], factor=count / moved),
        }


def _plain(source: Tensor, target: Tensor) -> tuple[Callable[[], object], int]:
    """Return a plain loop over memory, and the numbers that it reads and writes for each element."""
    if target.is_cpu:
        memory = "float32", [source.data_ptr()], [target.data_ptr()], [len(target)]
        return lambda: _rust.baseline_(*memory, 1.0, 1.0), 3
    return lambda: target.copy_(source), 2


def _steps(plan: Plan, model: Any, rule: str, tick: Tick) -> Iterator[dict[str, Any]]:
    training = make_guarded(model, rule, Shape(plan.batch, plan.length))
    whole = Stopwatch(plan.device)
    step = whole.timed(training.run)
    timed: dict[str, list[tuple[Sample, Sample]]] = {guard: [] for guard in ("", "enforce", "measure", "idle")}

    def run(guard: str) -> None:
        step()
        timed[guard].append((whole.take(), training.stopwatch.take()))

    cases = {guard: Case(partial(run, guard), partial(training.set_guard, guard)) for guard in timed}
    samples = rounds_of(cases, plan.rounds, clock_for(plan.device), tick=lambda: tick(f"a step of {rule}"))
    training.set_guard("")
    plain = samples[""]
    every = [_mean(one, other, EVERY) for one, other in zip(samples["measure"], samples["idle"], strict=True)]
    found = {
        "enforce": (samples["enforce"], _within(timed["enforce"], 1)),
        f"measure every {EVERY}th step": (every, _within(timed["measure"], EVERY)),
    }
    for case, (mine, within) in found.items():
        yield {
            "rule": rule,
            "case": case,
            "seconds": spread([one.wall for one in mine]),
            "plain_seconds": spread([one.wall for one in plain]),
            "within": within,
            **ratios(mine, plain),
        }


def _within(steps: Sequence[tuple[Sample, Sample]], every: int) -> dict[str, Any]:
    """Return the ratio of guarded steps to what is left of them without the guard's own time.

    Args:
        steps: The time of each guarded step, and of the guard within it.
        every: Of so many steps one is guarded.
    """
    pairs = [(total, _less(total, inside)) for total, inside in steps[1:]]  # the first step warms up
    return ratios([_mean(total, rest, every) for total, rest in pairs], [rest for _, rest in pairs])


def _less(total: Sample, part: Sample) -> Sample:
    cpu = None if total.cpu is None or part.cpu is None else total.cpu - part.cpu
    return Sample(cpu, total.wall - part.wall)


def _mean(one: Sample, other: Sample, every: int) -> Sample:
    """The mean over ``every`` steps of which one is ``one`` and each of the rest ``other``."""

    def mean(one: float, other: float) -> float:
        return (one + (every - 1) * other) / every

    cpu = None if one.cpu is None or other.cpu is None else mean(one.cpu, other.cpu)
    return Sample(cpu, mean(one.wall, other.wall))
