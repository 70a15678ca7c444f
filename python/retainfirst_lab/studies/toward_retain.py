"""The cost and the effect of PCGrad's ``round_toward_retain``, compared with PCGrad without it.

Cost: the time of ``combine_`` on one tensor, as ratios of CPU time and of wall time, round by round in alternating order. Effect:
the share of random conflicting pairs whose stored update has ``<u, r> < 0``, decided without rounding.

    python -m retainfirst_lab.studies.toward_retain [--rounds 15] [--draws 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import retainfirst as rf
from retainfirst import _rust, reference
from retainfirst.files import write_json
from retainfirst.theory.arrays import as_array
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.tables import conditions
from retainfirst_lab.bench.timing import Case, Clock, ratios, rounds_of, spread
from retainfirst_lab.report import Table, terminal
from retainfirst_lab.report.table import spread_cell

__all__ = ["measure", "tables"]

SIZES = (1_000_000, 10_000_000)
RATIOS = (1.0, 1e2, 1e4, 1e6)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
ELEMENTS = 256
"""Elements of a random pair."""

COMBINERS = {"without": rf.PCGrad(), "with": rf.PCGrad(round_toward_retain=True)}

Report = dict[str, Any]


def main() -> None:
    """Measure, print the tables, and write the report if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = measure(arguments.rounds, arguments.draws)
    console = Console()
    for table in tables(report):
        terminal.show(table, console)
    console.print(conditions(report), highlight=False, soft_wrap=True)
    if arguments.json:
        write_json(arguments.json, report)


def measure(rounds: int, draws: int) -> Report:
    """Return the report.

    Args:
        rounds: Of the times.
        draws: Random pairs for each share.
    """
    cases = [(dtype, n) for dtype in DTYPES for n in SIZES]
    shares = [(dtype, ratio) for dtype in DTYPES for ratio in RATIOS]
    return {
        **machine.describe("cpu"),
        "threads": _rust.get_num_threads(),
        "rounds": rounds,
        "draws": draws,
        "elements_a_draw": ELEMENTS,
        "times": [_times(*case, rounds) for case in track(cases, "times")],
        "shares": [_share(*share, draws) for share in track(shares, "shares")],
    }


def _times(dtype: str, n: int, rounds: int) -> Report:
    generator = torch.Generator().manual_seed(1)
    forget, retain = ((torch.randn(n, generator=generator) * size).to(DTYPES[dtype]) for size in (100.0, 1.0))
    written = torch.empty_like(retain)

    def case(combiner: rf.Combiner) -> Case:
        return Case(lambda: combiner.combine_([forget], [written]), before=lambda: written.copy_(retain))

    clock = Clock()
    clock.shortest = 0.0  # one call: a second one would get an update in place of the retain gradient
    found = rounds_of({name: case(combiner) for name, combiner in COMBINERS.items()}, rounds, clock)
    wall = {name: 1e3 * spread([one.wall for one in samples])["median"] for name, samples in found.items()}
    return {"dtype": dtype, "elements": n, **ratios(found["with"], found["without"]), "wall_ms": wall}


def _share(dtype: str, ratio: float, draws: int) -> Report:
    """The ratio of the norms is spread over both gradients: float16 could not represent it in one."""
    generator = torch.Generator().manual_seed(2)
    conflicting, opposed = 0, dict.fromkeys(COMBINERS, 0)
    for _ in range(draws):
        f, r = torch.randn(2, ELEMENTS, generator=generator, dtype=torch.float64)
        f, r = (f * ratio**0.5).to(DTYPES[dtype]), (r / ratio**0.5).to(DTYPES[dtype])
        if _dot_sign(f, r) < 0:
            conflicting += 1
            for name, combiner in COMBINERS.items():
                opposed[name] += _dot_sign(rf.combine(f, r, combiner), r) < 0
    shares = {name: count / max(conflicting, 1) for name, count in opposed.items()}
    return {"dtype": dtype, "ratio": ratio, "conflicting": conflicting, **shares}


def _dot_sign(first: Tensor, second: Tensor) -> int:
    return reference.dot_sign(as_array(first), as_array(second))


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the times and the shares as tables."""
    times = []
    for row in report["times"]:
        found = [spread_cell(row[f"{kind}_ratio"]) for kind in ("cpu", "wall")]
        wall = [f"{row['wall_ms'][name]:.1f}" for name in ("with", "without")]
        times.append([row["dtype"], f"{row['elements']:.0e}", *found, *wall])
    shares = []
    for row in report["shares"]:
        found = [f"{100 * row[name]:.1f} %" for name in COMBINERS]
        shares.append([row["dtype"], f"{row['ratio']:.0e}", str(row["conflicting"]), *found])
    return [
        Table(
            "Time with round_toward_retain, x without",
            ["dtype", "elements", "CPU time", "wall time", "with, ms", "without, ms"],
            times,
            "Ratios: median (least-greatest) over rounds.",
        ),
        Table(
            f"Share of conflicting pairs ({report['elements_a_draw']} elements) with <u, r> < 0",
            ["dtype", "|f|/|r|", "conflicting", "without", "with"],
            shares,
        ),
    ]


if __name__ == "__main__":
    main()
