"""What a step holds at its peak, each case in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from retainfirst.errors import RetainFirstError, require
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.model import MODES, Shape, make_model, make_step

__all__ = ["SHAPES", "cases", "measure"]

SHAPES = (Shape(1, 16, 1), Shape(4, 128, 1), Shape(4, 128, 4), Shape(8, 256, 1))
MIB = 2**20
# Freed memory goes back to the system at once, so that the peak is of what is alive.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}


def cases(shapes: Sequence[Shape], device: str) -> list[tuple[str, Shape]]:
    """Return what is measured: case and shape."""
    return [(case, shape) for shape in shapes for case in _cases(shape, device)]


def _cases(shape: Shape, device: str) -> Iterator[str]:
    yield from ("plain", "plain, one by one")
    for case, options in MODES.items():
        # Streaming takes one retain pass a step; a model on the CPU has no other memory to wait in.
        if (shape.micro_batches == 1 or "stream" not in options) and (device == "cuda" or "offload" not in options):
            yield case


def measure(
    shapes: Sequence[Shape] = SHAPES,
    *,
    threads: int | None = None,
    device: str = "cpu",
    small: bool = False,
    tick: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return the report.

    Args:
        shapes: What the steps are given.
        threads: None: as many as torch uses.
        device: ``"cpu"`` or ``"cuda"``.
        small: With a tiny model, to see that it runs.
        tick: Called with what is being measured, once for each of :func:`cases`.

    Raises:
        MissingDependency: transformers is not installed.
        RetainFirstError: A process failed; its last line is in the text.
    """
    machine.check_device(device)
    require("transformers", "hf")
    rows = []
    found: dict[str, int] = {}
    for case, shape in cases(shapes, device):
        tick(f"{case}, {shape.micro_batches} x {shape.batch} x {shape.length}")
        found = _in_a_process(case, shape, threads or torch.get_num_threads(), device, small)
        rows.append({"case": case, **asdict(shape), "peak_mib": found["peak"] / MIB})
    return {
        "benchmark": "memory",
        **machine.describe(device),
        "threads": threads or torch.get_num_threads(),
        "parameters": found["parameters"],
        "gradient_set_mib": 4 * found["parameters"] / MIB,
        "rows": rows,
    }


def _in_a_process(case: str, shape: Shape, threads: int, device: str, small: bool) -> dict[str, int]:
    given = {"case": case, "shape": asdict(shape), "threads": threads, "device": device, "small": small}
    command = [sys.executable, "-m", "retainfirst_lab.bench.memory", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | _GIVE_BACK)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed: out of memory?"])[-1]
        raise RetainFirstError(f"memory: the process for {case!r} ended with {done.returncode}: {reason}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak(case: str, shape: Shape, device: str, small: bool) -> dict[str, int]:
    """Bytes held at most during two steps above what was held before them."""
    model = make_model(device, small=small)
    step = make_step(model, case, shape)
    cuda = device == "cuda"
    before = torch.cuda.memory_allocated() if cuda else machine.resident("VmRSS")
    for _ in range(2):
        step()
    # Not getrusage, whose maximum a process inherits from the one that started it.
    peak = torch.cuda.max_memory_allocated() if cuda else machine.resident("VmHWM")
    return {"peak": peak - before, "parameters": sum(p.numel() for p in model.parameters())}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    with machine.threads(asked["threads"]):
        print(json.dumps(_peak(asked["case"], Shape(**asked["shape"]), asked["device"], asked["small"])))
