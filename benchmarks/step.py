"""What a two-gradient step costs beside plain addition of the two losses: time and peak memory, measured side by side.

A Llama of about 50 M parameters, batches of 4 x 128 tokens a task, 1 and 4 micro-batches, float32 on the CPU. Times are
ratios of the process's CPU time and of wall time, round by round in alternating order, as the median with the least and the
greatest. Peak memory is that of a process of its own for each case, above what it held before the first step.

    python benchmarks/step.py [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import __version__ as transformers_version

import retainfirst as rf

BATCH, LENGTH, VOCABULARY = 4, 128, 8192
RULES = ("sago", "pcgrad")
MICRO_BATCHES = (1, 4)
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=2, metavar=("RULE", "MICRO_BATCHES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_memory(arguments.peak[0], int(arguments.peak[1])))
        return
    report = measure(arguments.rounds)
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(rounds: int) -> dict:
    model = make_model()
    parameters = sum(p.numel() for p in model.parameters())
    rows = []
    for micro_batches in MICRO_BATCHES:
        steps = {rule: make_step(model, rule, micro_batches) for rule in ("sum of losses", *RULES)}
        for step in steps.values():
            step()
        times: dict[str, list[tuple[float, float]]] = {rule: [] for rule in steps}
        for i in track(range(rounds), f"time, {micro_batches} micro-batch(es)"):
            order = list(steps) if i % 2 == 0 else list(steps)[::-1]
            for rule in order:
                times[rule].append(timed(steps[rule]))
        peaks = {rule: run_peak(rule, micro_batches) for rule in steps}
        for rule in RULES:
            row = {"rule": rule, "micro_batches": micro_batches}
            for kind, name in enumerate(("cpu", "wall")):
                ratios = [a[kind] / b[kind] for a, b in zip(times[rule], times["sum of losses"], strict=True)]
                row[f"{name}_ratio"] = {
                    "median": statistics.median(ratios),
                    "least": min(ratios),
                    "greatest": max(ratios),
                }
            row["peak_mib"], row["peak_mib_sum_of_losses"] = peaks[rule] / MIB, peaks["sum of losses"] / MIB
            rows.append(row)
    return {
        "parameters": parameters,
        "gradient_set_mib": 4 * parameters / MIB,
        "tokens": [BATCH, LENGTH],
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"retainfirst": rf.__version__, "torch": torch.__version__, "transformers": transformers_version},
        "rows": rows,
    }


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 8, "num_attention_heads": 10}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape)).train()


def make_step(model: LlamaForCausalLM, rule: str, micro_batches: int) -> Callable[[], None]:
    """Return a function that does one step and leaves no gradient behind."""
    tokens = torch.randint(VOCABULARY, (micro_batches, 2, BATCH, LENGTH), generator=torch.Generator().manual_seed(1))

    def loss(ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, labels=ids, use_cache=False).loss

    def plain() -> None:
        for forget, retain in tokens:
            (-loss(forget) + loss(retain)).backward()
        model.zero_grad()

    two_task = rf.TwoTaskStep(model, "sum" if rule == "sum of losses" else rule)

    def separate() -> None:
        for forget, retain in tokens:
            with two_task.forget():
                (-loss(forget)).backward()
            with two_task.retain():
                loss(retain).backward()
        two_task.combine()
        model.zero_grad()

    return plain if rule == "sum of losses" else separate


def timed(step: Callable[[], None]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def run_peak(rule: str, micro_batches: int) -> float:
    command = [sys.executable, __file__, "--peak", rule, str(micro_batches)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_memory(rule: str, micro_batches: int) -> int:
    """Bytes that the process held at most during two steps above what it held before them."""
    step = make_step(make_model(), rule, micro_batches)
    before = resident("VmRSS")
    for _ in range(2):
        step()
    # Not getrusage, whose maximum a process inherits from the one that started it.
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of a field of the process's status, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def show(report: dict) -> None:
    size = f"{report['parameters'] / 1e6:.1f} M parameters, {BATCH}x{LENGTH} tokens, {report['threads']} threads"
    table = Table(title=f"{size}; beside plain addition")
    for column in ("rule", "batches", "CPU time", "wall time", "MiB", "plain"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report["rows"]:
        ratios = [row[f"{kind}_ratio"] for kind in ("cpu", "wall")]
        table.add_row(
            row["rule"],
            str(row["micro_batches"]),
            *(f"{r['median']:.2f} ({r['least']:.2f}-{r['greatest']:.2f})" for r in ratios),
            f"{row['peak_mib']:.0f}",
            f"{row['peak_mib_sum_of_losses']:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(
        "Times are ratios to plain addition, as median (least-greatest); MiB is peak memory, and plain addition's."
    )
    console.print(
        f"One gradient set is {report['gradient_set_mib']:.0f} MiB. {report['versions']}, {report['machine']}"
    )


if __name__ == "__main__":
    main()
