"""What PCGrad's ``round_toward_retain`` costs and what it is for: time beside PCGrad without it, and updates that oppose retain.

Times are of ``combine_`` on one tensor (ten times a round for the smaller size), as ratios of the process's CPU time and of
wall time, round by round in alternating order, as the median with the least and the greatest. Shares are of random draws in
which forget and retain conflict: those whose stored update has ``<u, r> < 0``, without the option and with it, told without
any rounding.

    python -m retainfirst_lab.scripts.toward_retain [--rounds 15] [--draws 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import retainfirst as rf
from retainfirst import _rust, reference

SIZES = (1_000_000, 10_000_000)
RATIOS = (1.0, 1e2, 1e4, 1e6)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
DRAWN = 256  # elements a draw
WITHOUT, WITH = rf.PCGrad(), rf.PCGrad(round_toward_retain=True)
NAMED = {"without": WITHOUT, "with": WITH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = measure(arguments.rounds, arguments.draws)
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(rounds: int, draws: int) -> dict:
    cases = [(dtype, n) for dtype in DTYPES for n in SIZES]
    shares = [(dtype, ratio) for dtype in DTYPES for ratio in RATIOS]
    return {
        "rounds": rounds,
        "draws": draws,
        "elements_a_draw": DRAWN,
        "threads": _rust.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"retainfirst": rf.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "times": [measure_time(*case, rounds) for case in track(cases, "times")],
        "shares": [measure_share(*share, draws) for share in track(shares, "shares")],
    }


def measure_time(dtype: torch.dtype, n: int, rounds: int) -> dict:
    generator = torch.Generator().manual_seed(1)
    forget, retain = ((torch.randn(n, generator=generator) * size).to(dtype) for size in (100.0, 1.0))
    written, repeats = torch.empty_like(retain), max(1, SIZES[-1] // n)
    times: dict[rf.PCGrad, list[tuple[float, float]]] = {WITHOUT: [], WITH: []}
    for i in range(-1, rounds):
        for rule in (WITHOUT, WITH) if i % 2 == 0 else (WITH, WITHOUT):
            taken = [timed(rule, forget, written.copy_(retain)) for _ in range(repeats)]
            if i >= 0:  # the first round warms up
                times[rule].append((sum(t[0] for t in taken), sum(t[1] for t in taken)))
    row = {"dtype": name(dtype), "elements": n}
    for kind, column in enumerate(("cpu_ratio", "wall_ratio")):
        ratios = [a[kind] / b[kind] for a, b in zip(times[WITH], times[WITHOUT], strict=True)]
        row[column] = {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
    row["wall_ms"] = {key: 1e3 / repeats * statistics.median(t[1] for t in times[rule]) for key, rule in NAMED.items()}
    return row


def timed(rule: rf.PCGrad, forget: torch.Tensor, retain: torch.Tensor) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    rule.combine_([forget], [retain])
    return time.process_time() - cpu, time.perf_counter() - wall


def measure_share(dtype: torch.dtype, ratio: float, draws: int) -> dict:
    """Lengths are set apart in both directions, since float16 alone could not hold the larger one."""
    generator = torch.Generator().manual_seed(2)
    conflicting, opposed = 0, dict.fromkeys(NAMED, 0)
    for _ in range(draws):
        f, r = torch.randn(2, DRAWN, generator=generator, dtype=torch.float64)
        f, r = (f * ratio**0.5).to(dtype), (r / ratio**0.5).to(dtype)
        if reference.dot_sign(array(f), array(r)) < 0:
            conflicting += 1
            for key, rule in NAMED.items():
                opposed[key] += reference.dot_sign(array(rf.combine(f, r, rule)), array(r)) < 0
    shares = {key: count / max(conflicting, 1) for key, count in opposed.items()}
    return {"dtype": name(dtype), "ratio": ratio, "conflicting": conflicting, **shares}


def array(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def show(report: dict) -> None:
    console = Console()
    times = Table(title=f"PCGrad with the option beside PCGrad without; {report['threads']} threads")
    for column in ("dtype", "elements", "CPU time", "wall time", "ms", "without"):
        times.add_column(column, justify="right", no_wrap=True)
    for row in report["times"]:
        ratios = [row["cpu_ratio"], row["wall_ratio"]]
        times.add_row(
            row["dtype"],
            f"{row['elements']:.0e}",
            *(f"{r['median']:.2f} ({r['least']:.2f}-{r['greatest']:.2f})" for r in ratios),
            *(f"{row['wall_ms'][key]:.1f}" for key in ("with", "without")),
        )
    console.print(times)
    shares = Table(title=f"Share of conflicting draws ({report['elements_a_draw']} elements) with <u, r> < 0")
    for column in ("dtype", "|f|/|r|", "conflicting", "without", "with"):
        shares.add_column(column, justify="right", no_wrap=True)
    for row in report["shares"]:
        found = [f"{100 * row[key]:.1f} %" for key in NAMED]
        shares.add_row(row["dtype"], f"{row['ratio']:.0e}", str(row["conflicting"]), *found)
    console.print(shares)
    console.print("Times are ratios, as median (least-greatest); ms is wall time with the option, and without.")
    console.print(f"{report['versions']}, {report['machine']}")


if __name__ == "__main__":
    main()
