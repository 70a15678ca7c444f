"""Timing of several cases in turns, so that a disturbance of the machine affects all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["LEAD", "Case", "Clock", "Sample", "Spread", "Stopwatch", "clock_for", "ratios", "rounds_of", "spread"]

Spread = dict[str, float]
"""``median``, ``least`` and ``greatest``."""

LEAD = 4_000_000
"""Clock cycles of a GPU, about 2 ms: longer than the host takes for one call with a few tensors."""

# The threads of a parallel loop spin for a moment after its end, which would count as CPU time of the next case.
_SETTLE = 2e-3


@dataclass(frozen=True)
class Sample:
    """Seconds of one call. ``cpu`` counts all threads of the process; it is None for work on a GPU."""

    cpu: float | None
    wall: float


@dataclass(frozen=True)
class Case:
    """A piece of work to time.

    Attributes:
        run: The work; called several times in a row if it is short.
        before: Called before each measurement, outside the timed span.
    """

    run: Callable[[], object]
    before: Callable[[], object] = field(default=lambda: None)


class Clock:
    """CPU time and wall time of this process.

    Attributes:
        shortest: Seconds that a measurement should take at least; short work is called several times.
    """

    shortest: float = 2e-3

    def measure(self, case: Case, calls: int) -> Sample:
        """Return the seconds of one of ``calls`` calls."""
        case.before()
        time.sleep(_SETTLE)
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            case.run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Sample(cpu / calls, wall / calls)

    def first(self, case: Case) -> Sample:
        """Return a first measurement, which decides the number of calls of the others."""
        return self.measure(case, 1)


class CudaClock(Clock):
    """Time between two events on the GPU.

    Args:
        lead: Clock cycles that the GPU idles before each measurement, so that the host runs ahead and its time is not counted.
    """

    def __init__(self, lead: int = 0) -> None:
        self.lead = lead
        if lead:
            self.shortest = 0.0  # one call a measurement: the host could not run ahead of several

    def first(self, case: Case) -> Sample:
        """See :meth:`Clock.first`. The first call is not counted, since it may compile a kernel."""
        self.measure(case, 1)
        return self.measure(case, 1)

    def measure(self, case: Case, calls: int) -> Sample:
        """Return the GPU's seconds of one of ``calls`` calls."""
        case.before()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        if self.lead:
            torch.cuda._sleep(self.lead)  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(calls):
            case.run()
        end.record()
        torch.cuda.synchronize()
        return Sample(None, start.elapsed_time(end) / 1e3 / calls)


class Stopwatch:
    """Adds up the time of parts of a piece of work.

    Args:
        device: ``"cpu"`` or ``"cuda"``; on a GPU each start and each stop waits for it, and there is no CPU time.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._started = self._sum = 0.0, 0.0

    def start(self) -> None:
        """Begin a part."""
        self._started = self._now()

    def stop(self) -> None:
        """End the part."""
        cpu, wall = self._now()
        self._sum = self._sum[0] + cpu - self._started[0], self._sum[1] + wall - self._started[1]

    def timed(self, part: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a start before it and a stop after it."""

        def timed(*arguments: Any) -> Any:
            self.start()
            found = part(*arguments)
            self.stop()
            return found

        return timed

    def take(self) -> Sample:
        """Return the seconds since the last call of this method that lay in parts."""
        (cpu, wall), self._sum = self._sum, (0.0, 0.0)
        return Sample(None if self._on_gpu else cpu, wall)

    def _now(self) -> tuple[float, float]:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.process_time(), time.perf_counter()


def clock_for(device: str, lead: int = 0) -> Clock:
    """Return the clock for ``"cpu"`` or ``"cuda"``; ``lead`` is that of :class:`CudaClock`."""
    return CudaClock(lead) if device == "cuda" else Clock()


def rounds_of(
    cases: Mapping[str, Case],
    rounds: int,
    clock: Clock,
    *,
    tick: Callable[[], object] = lambda: None,
    patience: float = math.inf,
    least: int = 2,
) -> dict[str, list[Sample]]:
    """Time each case once a round; every other round goes through the cases backwards.

    Args:
        cases: The cases by name.
        rounds: Measurements of each case, after a first one that is not counted.
        clock: See :func:`clock_for`.
        tick: Called after each round.
        patience: Seconds after which a case is left out of the rounds that follow.
        least: Rounds in which every case takes part, however slow.

    Returns:
        The samples of each case; samples of the same round have the same index.
    """
    first = {name: clock.first(case) for name, case in cases.items()}
    calls = {name: max(1, min(10_000, math.ceil(clock.shortest / sample.wall))) for name, sample in first.items()}
    spent = {name: sample.wall for name, sample in first.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for i in range(rounds):
        for name in list(cases) if i % 2 == 0 else list(cases)[::-1]:
            if i < least or spent[name] < patience:
                sample = clock.measure(cases[name], calls[name])
                samples[name].append(sample)
                spent[name] += sample.wall * calls[name]
        tick()
    return samples


def spread(values: Sequence[float]) -> Spread:
    """Return the median, the least and the greatest value."""
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def ratios(case: Sequence[Sample], *against: Sequence[Sample], factor: float = 1.0) -> dict[str, Any]:
    """Return the ratio of a case to the sum of others, round by round.

    Args:
        case: Samples of the case.
        *against: Samples of each of the others, from the same rounds.
        factor: The sum is multiplied by it.

    Returns:
        ``cpu_ratio`` (None where there is no CPU time) and ``wall_ratio``, each a :data:`Spread`.
    """
    found: dict[str, Any] = {}
    for kind in ("cpu", "wall"):
        pairs = [
            (getattr(sample, kind), [getattr(other[i], kind) for other in against]) for i, sample in enumerate(case)
        ]
        known = all(value is not None and None not in others for value, others in pairs)
        # A round may be too short for the clock of CPU time: it is left out.
        values = [value / (factor * sum(others)) for value, others in pairs if known and sum(others) > 0]
        found[f"{kind}_ratio"] = spread(values) if values else None
    return found
