"""The combiners on a GPU: whether their updates have the CPU's bits, and their time compared with a copy and with plain torch.

Times are those of the GPU, with the host running ahead, on buffers that alternate so that none is in a cache. Bandwidth counts
the bytes that a combiner must move (element-wise: two reads and a write per element; projections: two passes, four reads and a
write), as a share of the bandwidth of a 2 GiB ``copy_`` in the same round. Numbers are medians over the rounds.

    python -m retainfirst_lab.studies.gpu [--output FILE] [--rounds 20] [--sections check,sync,...]

A section that fails prints its traceback and is listed at the end; the others still run. To try the study without a GPU, set
``TRITON_INTERPRET=1`` and give ``--device cpu --scale 1e-6 --rounds 1``.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.files import write_json
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.tables import conditions
from retainfirst_lab.report import Table, terminal
from retainfirst_lab.studies import gpu_checks, gpu_times
from retainfirst_lab.studies.gpu_setting import Setting

__all__ = ["SECTIONS", "measure"]

SECTIONS: dict[str, Callable[[Setting], Any]] = {
    "check": gpu_checks.check,
    "sync": gpu_checks.sync,
    "huge": gpu_checks.huge,
    "combiners": gpu_times.combiners,
    "peers": gpu_times.peers,
    "list": gpu_times.many,
    "wide": gpu_times.wide,
    "host": gpu_times.host,
    "launch": gpu_times.launch,
}


def main() -> None:
    """Run the sections, write the report after each, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all sizes")
    arguments = parser.parse_args()
    setting = Setting(torch.device(arguments.device), arguments.rounds, arguments.scale)
    report = measure(setting, arguments.sections.split(","), arguments.output)
    console = Console(width=150)
    for table in tables(report):
        terminal.show(table, console)
    console.print(conditions(report), *remarks(report), sep="\n", highlight=False, soft_wrap=True)


def measure(setting: Setting, sections: list[str], output: Path | None = None) -> dict[str, Any]:
    """Return the report.

    Args:
        setting: Device, rounds and scale.
        sections: Keys of :data:`SECTIONS`.
        output: A file that the report is written to after every section; None: none.

    Raises:
        RetainFirstError: There is no such section or device.
    """
    machine.check_device(setting.device.type)
    for name in sections:
        if name not in SECTIONS:
            raise RetainFirstError(f"Unknown section {name!r}. {did_you_mean(name, SECTIONS)}")
    report = {**machine.describe(setting.device.type), "rounds": setting.rounds, "failed": [], "seconds": {}}
    if setting.on_gpu:
        report["machine"] |= {
            "l2_bytes": getattr(torch.cuda.get_device_properties(setting.device), "L2_cache_size", None),
            "cuda": torch.version.cuda,
        }
    for name in sections:
        start = time.perf_counter()
        print(f"== {name}", flush=True)
        try:
            report[name] = SECTIONS[name](setting)
        except Exception:
            traceback.print_exc()
            report["failed"].append(name)
        report["seconds"][name] = time.perf_counter() - start
        if setting.on_gpu:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.empty_cache()
        if output:
            write_json(output, report)
    return report


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return one table for each section that ran."""
    found = []
    for name in SECTIONS:
        rows = report.get(name)
        if isinstance(rows, dict):
            rows = [{"what": key, "found": value} for key, value in rows.items()]
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            found.append(Table(name, columns, [[_cell(key, row.get(key)) for key in columns] for row in rows]))
    return found


def remarks(report: Mapping[str, Any]) -> list[str]:
    """Return the number of checks that failed, and the sections."""
    wrong = [row for row in report.get("check", []) if row["differing"] and row["must_be_equal"]]
    return [
        f"Checks with wrong bits: {len(wrong)}. Sections that failed: {', '.join(report['failed']) or 'none'}.",
        "Seconds: " + ", ".join(f"{name} {taken:.1f}" for name, taken in report["seconds"].items()) + ".",
    ]


def _cell(key: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if key.endswith("bytes_per_second"):
        return f"{value / 1e9:,.0f} GB/s"
    return f"{1e6 * value:,.1f} us" if key == "seconds" else f"{value:.3g}"


if __name__ == "__main__":
    main()
