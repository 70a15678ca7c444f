"""Tables of docs/engines.md: equality with one process, traffic and memory, engine by engine; gloo on the CPU.

Equality: the largest relative difference of any parameter to one process on all rows, after two steps. Traffic: the bytes that a
process hands to collective calls in a step of four micro-batches. Memory: a process's peak above what it holds between steps.
Traffic and memory are in gradient sets, of a whole model. DeepSpeed's rows need DeepSpeed.

    python -m retainfirst_lab.scripts.engines [--write]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT / "tests" / "distributed"), str(ROOT / "tests")]

import processes  # noqa: E402

# Freed memory goes back to the system at once, so that the peak is of what is alive.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}
PAGE = ROOT / "docs" / "engines.md"
BEGIN, END = "<!-- tables: python -m retainfirst_lab.scripts.engines --write -->\n", "<!-- end of tables -->\n"
SCRIPTS = {
    "ddp_cases.py": {"equal, rule ": "DDP"},
    "fsdp_cases.py": {"equal, FSDP, ": "FSDP", "equal, fully_shard, ": "fully_shard"},
}
ZERO = {"deepspeed_cases.py": {f"equal, stage {stage}, ": f"ZeRO {stage} (float32)" for stage in (1, 2, 3)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/engines.md")
    arguments = parser.parse_args()
    scripts = SCRIPTS | (ZERO if importlib.util.find_spec("deepspeed") else {})
    text = equality(scripts) + "\n" + cost()
    print(text)
    if arguments.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])


def equality(scripts: dict[str, dict[str, str]]) -> str:
    from setting import RULES

    errors: dict[str, dict[str, list[float]]] = {}
    for script, prefixes in scripts.items():
        for world in (2, 3):
            for rank in processes.run(script, world):
                for case, found in rank.items():
                    for prefix, engine in prefixes.items():
                        rule = case.removeprefix(prefix)
                        if case.startswith(prefix) and rule in RULES:
                            errors.setdefault(rule, {}).setdefault(engine, []).append(found["error"])
    engines = [engine for prefixes in scripts.values() for engine in prefixes.values()]
    rows = [[rule, *(cell(found.get(engine)) for engine in engines)] for rule, found in errors.items()]
    return table([["rule, scope", *engines], *rows])


def cell(errors: list[float] | None) -> str:
    return f"{max(errors):.1e}" if errors else "not run"


def cost() -> str:
    rows = [["engine", "", "traffic", "peak memory"]]
    for engine in ("DDP", "FSDP", "fully_shard"):
        for rule in ("plain", "sago", "pcgrad"):
            ranks = processes.run(str(Path(__file__).with_name("engines_cost.py")), 2, engine, rule, env=GIVE_BACK)
            rows.append([engine, rule, *(f"{max(r[key] / r['set'] for r in ranks):.2f}" for key in ("bytes", "peak"))])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


if __name__ == "__main__":
    main()
