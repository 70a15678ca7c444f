"""The peak memory of a training step, each case in its own process."""

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
from retainfirst_lab.bench.model import GUARDED, MODES, Shape, make_model, make_step
from retainfirst_lab.bench.trainers import TRAINERS

__all__ = ["GIVE_BACK", "SHAPES", "cases", "measure"]

SHAPES = (Shape(1, 16, 1), Shape(4, 128, 1), Shape(4, 128, 4), Shape(8, 256, 1))
MIB = 2**20
# Makes malloc return freed memory to the system at once, so that the peak counts live memory only.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}


def cases(shapes: Sequence[Shape], device: str) -> list[tuple[str, Shape]]:
    """Return each case with its shape."""
    return [(case, shape) for shape in shapes for case in _cases(shape, device)] + _guarded(shapes)


def _guarded(shapes: Sequence[Shape]) -> list[tuple[str, Shape]]:
    """The guard's copies show with the fewest activations."""
    return [(case, shapes[0]) for case in GUARDED]


def _cases(shape: Shape, device: str) -> Iterator[str]:
    yield from ("plain", "plain, one by one")
    if shape.micro_batches == 1:
        yield from TRAINERS
    for case, options in MODES.items():
        # Streaming allows one retain pass a step. Offloading moves gradients to host memory, where those of the CPU are already.
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
        shapes: Of the batches.
        threads: None: the number that torch uses.
        device: ``"cpu"`` or ``"cuda"``.
        small: Use a tiny model, for a quick try.
        tick: Called with the name of each of :func:`cases`.

    Raises:
        MissingDependency: transformers is not installed.
        RetainFirstError: A process failed; its last line is in the text.
    """
    machine.check_device(device)
    require("transformers", "hf")
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    found: dict[str, int] = {}
    for case, shape in cases(shapes, device):
        tick(f"{case}, {shape.micro_batches} x {shape.batch} x {shape.length}")
        found = _in_a_process(case, shape, threads or torch.get_num_threads(), device, small)
        rows[case in GUARDED].append({"case": case, **asdict(shape), "peak_mib": found["peak"] / MIB})
    return {
        "benchmark": "memory",
        **machine.describe(device),
        "threads": threads or torch.get_num_threads(),
        "parameters": found["parameters"],
        "gradient_set_mib": 4 * found["parameters"] / MIB,
        "rows": rows[False],
        "guard": rows[True],
    }


def _in_a_process(case: str, shape: Shape, threads: int, device: str, small: bool) -> dict[str, int]:
    given = {"case": case, "shape": asdict(shape), "threads": threads, "device": device, "small": small}
    command = [sys.executable, "-m", "retainfirst_lab.bench.memory", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | GIVE_BACK)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed: out of memory?"])[-1]
        raise RetainFirstError(f"memory: the process for {case!r} ended with {done.returncode}: {reason}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak(case: str, shape: Shape, device: str, small: bool) -> dict[str, int]:
    """Peak of two steps, in bytes above the memory in use before them."""
    model = make_model(device, small=small)
    step = make_step(model, case, shape)
    cuda = device == "cuda"
    before = torch.cuda.memory_allocated() if cuda else machine.resident("VmRSS")
    for _ in range(2):
        step()
    # Not getrusage: a process inherits its maximum from its parent.
    peak = torch.cuda.max_memory_allocated() if cuda else machine.resident("VmHWM")
    return {"peak": peak - before, "parameters": sum(p.numel() for p in model.parameters())}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    with machine.threads(asked["threads"]):
        print(json.dumps(_peak(asked["case"], Shape(**asked["shape"]), asked["device"], asked["small"])))
