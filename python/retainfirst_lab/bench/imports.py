"""The time of ``import retainfirst``, compared with ``import torch``, each in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from retainfirst_lab.bench import machine
from retainfirst_lab.bench.timing import Case, Clock, Sample, ratios, rounds_of, spread

__all__ = ["measure"]


class _ProcessClock(Clock):
    """Wall time of a process that a case starts, and the CPU time that the system attributes to it."""

    def measure(self, case: Case, calls: int) -> Sample:
        del calls  # one process takes long enough
        before, wall = os.times(), time.perf_counter()
        case.run()
        wall, after = time.perf_counter() - wall, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return Sample(cpu, wall)


def measure(rounds: int = 11, *, tick: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Run the benchmark and return the report.

    Args:
        rounds: Rounds in alternating order. A run before the first brings the files into the system's cache.
        tick: Called with the name of the benchmark, once a round.
    """

    def start(module: str) -> Case:
        return Case(lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True))

    samples = rounds_of(
        {"torch": start("torch"), "retainfirst": start("retainfirst")},
        rounds,
        _ProcessClock(),
        tick=lambda: tick("imports"),
    )
    return {
        "benchmark": "imports",
        **machine.describe("cpu"),
        "rounds": rounds,
        "seconds": {name: spread([one.wall for one in found]) for name, found in samples.items()},
        **ratios(samples["retainfirst"], samples["torch"]),
    }
