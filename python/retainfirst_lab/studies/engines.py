"""The tables of docs/engines.md: equality with one process, traffic and memory of every engine, with gloo on the CPU.

Equality is measured by the case scripts of the tests: the largest relative difference of any parameter to one process that sees
all rows, after two steps. Traffic and memory are measured by :mod:`retainfirst_lab.studies.engines_cost`. DeepSpeed's columns
need DeepSpeed. Run it in a checkout of the project, which has the tests::

    python -m retainfirst_lab.studies.engines [--write docs/engines.md] [--tests tests/distributed]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst_lab.report import Table, markdown
from retainfirst_lab.report.page import rewrite
from retainfirst_lab.report.table import number_cell
from retainfirst_lab.studies import engines_cost

__all__ = ["cost_table", "equality_table"]

SCOPES = ("tensor", "module", "block", "global")
COMBINERS = (
    "sum", "sago", "sago_keep_retain", *(f"{name} {scope}" for name in ("pcgrad", "blur") for scope in SCOPES)
)  # fmt: skip
SCRIPTS = {
    "ddp_cases.py": {"equal, rule ": "DDP"},
    "fsdp_cases.py": {"equal, FSDP, ": "FSDP", "equal, fully_shard, ": "fully_shard"},
}
"""For each script, the engine by the prefix of its cases."""

ZERO = {"deepspeed_cases.py": {f"equal, stage {stage}, ": f"ZeRO {stage} (float32)" for stage in (1, 2, 3)}}


def main() -> None:
    """Measure, print the tables, and write them into a page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the page to insert the tables into")
    parser.add_argument("--tests", type=Path, default=Path("tests/distributed"), help="the folder of the case scripts")
    arguments = parser.parse_args()
    scripts = SCRIPTS | (ZERO if importlib.util.find_spec("deepspeed") else {})
    text = markdown.render([equality_table(scripts, arguments.tests), cost_table()], "**{}**")
    print(text)
    if arguments.write:
        rewrite(arguments.write, "engines", text)


def equality_table(scripts: Mapping[str, Mapping[str, str]], tests: Path) -> Table:
    """Run the case scripts with two and three processes.

    Args:
        scripts: As :data:`SCRIPTS`.
        tests: Their folder.

    Raises:
        RetainFirstError: The folder or a case is absent.
    """
    processes = _processes(tests)
    errors: dict[tuple[str, str], list[float]] = {}
    for script, prefixes in scripts.items():
        for world in (2, 3):
            for rank in processes.run(script, world):
                for prefix, engine in prefixes.items():
                    for combiner in COMBINERS:
                        if prefix + combiner not in rank:
                            raise RetainFirstError(f"{tests / script} has no case {prefix + combiner!r}.")
                        errors.setdefault((combiner, engine), []).append(rank[prefix + combiner]["error"])
    engines = [engine for prefixes in scripts.values() for engine in prefixes.values()]
    rows = [[combiner, *(f"{max(errors[combiner, engine]):.1e}" for engine in engines)] for combiner in COMBINERS]
    return Table("Largest relative difference to one process", ["combiner, scope", *engines], rows)


def _processes(tests: Path) -> Any:
    """Import the tests' module that starts processes."""
    if not (tests / "processes.py").is_file():
        raise RetainFirstError(f"{tests} has no processes.py. Run this in a checkout, or give its tests/distributed.")
    sys.path[:0] = [str(tests.resolve()), str(tests.resolve().parent)]
    return importlib.import_module("processes")


def cost_table() -> Table:
    """Measure traffic and peak memory with two processes, in gradient sets."""
    rows = []
    for engine in engines_cost.ENGINES:
        for method in ("plain", "sago", "pcgrad"):
            found = engines_cost.measure(engine, method)
            rows.append([engine, method, number_cell(found["traffic"]), number_cell(found["peak"])])
    return Table("Traffic and peak memory, in gradient sets", ["engine", "method", "traffic", "peak memory"], rows)


if __name__ == "__main__":
    main()
