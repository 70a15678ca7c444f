"""The time of the guard: one pass over the parameters, and a training step with AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retainfirst import _rust, kernels
from retainfirst.errors import RetainFirstError, require
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.model import Shape, make_guarded, make_model
from retainfirst_lab.bench.timing import LEAD, Case, Sample, clock_for, ratios, rounds_of, spread

__all__ = ["EVERY", "RULES", "Plan", "measure"]

RULES = ("sago", "pcgrad")
"""SAGO's guard reads ``.grad``; the others' keeps a copy of the retain gradient."""

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
        rounds: Rounds of each case.
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
        return self.rounds * (len(self._used_threads) + len(RULES))

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
        samples = rounds_of(cases, plan.rounds, clock, tick=lambda: tick(f"{threads} thread(s)"))
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
    cases = {
        guard: Case(training.run, lambda guard=guard: training.set_guard(guard))  # type: ignore[misc]
        for guard in ("", "enforce", "measure", "idle")
    }
    samples = rounds_of(cases, plan.rounds, clock_for(plan.device), tick=lambda: tick(f"a step of {rule}"))
    training.set_guard("")
    plain = samples[""]
    every = [_mean(one, other) for one, other in zip(samples["measure"], samples["idle"], strict=True)]
    found = {"enforce": samples["enforce"], f"measure every {EVERY}th step": every}
    for case, mine in found.items():
        yield {
            "rule": rule,
            "case": case,
            "seconds": spread([one.wall for one in mine]),
            "plain_seconds": spread([one.wall for one in plain]),
            **ratios(mine, plain),
        }


def _mean(measured: Sample, idle: Sample) -> Sample:
    """The mean over :data:`EVERY` steps of which one is measured."""

    def mean(one: float, other: float) -> float:
        return (one + (EVERY - 1) * other) / EVERY

    cpu = None if measured.cpu is None or idle.cpu is None else mean(measured.cpu, idle.cpu)
    return Sample(cpu, mean(measured.wall, idle.wall))
