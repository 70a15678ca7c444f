"""The time of a training step with two gradients, compared with plain addition of the two losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from retainfirst_lab.bench import machine
from retainfirst_lab.bench.model import Shape, make_model, make_step
from retainfirst_lab.bench.timing import Case, clock_for, ratios, rounds_of, spread
from retainfirst_lab.bench.trainers import OWN, TRAINERS

__all__ = ["CASES", "MICRO_BATCHES", "measure", "shapes"]

CASES = ("sago", "pcgrad", "sago, stream")
MICRO_BATCHES = (1, 4)


def shapes(batch: int, length: int, micro_batches: Sequence[int]) -> list[Shape]:
    """Return the shapes to measure."""
    return [Shape(batch, length, count) for count in micro_batches]


def measure(
    rounds: int = 7,
    *,
    batch: int = 4,
    length: int = 128,
    micro_batches: Sequence[int] = MICRO_BATCHES,
    threads: int | None = None,
    device: str = "cpu",
    small: bool = False,
    tick: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return the report.

    Args:
        rounds: Rounds in alternating order.
        batch: Rows of a microbatch, for each task.
        length: Tokens of a row.
        micro_batches: Numbers of microbatches per step, each measured.
        threads: None: the number that torch uses.
        device: ``"cpu"`` or ``"cuda"``.
        small: Use a tiny model, for a quick try.
        tick: Called with the name of the shape, and then of the trainers, once a round.

    Raises:
        MissingDependency: transformers is not installed.
    """
    machine.check_device(device)
    model = make_model(device, small=small)
    parameters = sum(p.numel() for p in model.parameters())
    rows: list[dict[str, Any]] = []

    def against(first: str, cases: Sequence[str], shape: Shape, label: str) -> list[dict[str, Any]]:
        steps = {case: Case(make_step(model, case, shape)) for case in (first, *cases)}
        samples = rounds_of(steps, rounds, clock_for(device), tick=lambda: tick(label))
        return [
            {
                "case": case,
                "micro_batches": shape.micro_batches,
                "seconds": spread([one.wall for one in samples[case]]),
                "plain_seconds": spread([one.wall for one in samples[first]]),
                **ratios(samples[case], samples[first]),
            }
            for case in cases
        ]

    with machine.threads(threads) as used:
        for shape in shapes(batch, length, micro_batches):
            # Streaming allows one retain pass a step.
            cases = [case for case in CASES if shape.micro_batches == 1 or "stream" not in case]
            rows += against("plain", cases, shape, f"{shape.micro_batches} microbatch(es)")
        trainers = against(OWN, [case for case in TRAINERS if case != OWN], Shape(batch, length), "trainers")
    return {
        "benchmark": "step",
        **machine.describe(device),
        "threads": used,
        "rounds": rounds,
        "parameters": parameters,
        "tokens": [batch, length],
        "rows": rows,
        "trainers": trainers,
    }
