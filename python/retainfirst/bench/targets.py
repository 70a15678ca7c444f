"""What the numbers should be, and whether they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["LARGE", "Target", "targets"]

LARGE = 10_000_000
"""From so many elements on, a rule's time is the memory's."""

Target = dict[str, Any]
"""``what``, ``at_most``, ``cpu`` and ``wall`` (what was found; None where there is none), ``met``."""

_ELEMENTWISE = ("sum", "sago", "sago_keep_retain")
_TO_LIMIT = {"float32": 1.15, "bfloat16": 1.3, "float16": 1.3}
# At least 90 % of the copy bandwidth.
_TO_COPY = 1 / 0.9


def targets(report: Mapping[str, Any]) -> list[Target]:
    """Judge a report by the medians in it; empty where nothing in it was meant to be judged (small sizes, for one)."""
    return list(_JUDGES[report["benchmark"]](report))


def _combine(report: Mapping[str, Any]) -> Iterator[Target]:
    on_cpu = report["machine"]["device"] == "cpu"
    for row in report["rows"]:
        where = f"{row['case']}, {row['dtype']}, {row['elements']:,}, {row['threads']} thread(s)"
        if row["elements"] < LARGE:
            continue
        if row["case"] in _ELEMENTWISE:
            yield _target(f"{where}: x {row['against']}", _TO_LIMIT[row["dtype"]] if on_cpu else _TO_COPY, row)
        if "to_passes" in row:
            yield _target(f"{where}: x its two passes", 1.1, row["to_passes"])
        if "to_update_alone" in row:
            yield _target(f"{where}: x the update alone", 1.1, row["to_update_alone"])
    for row in report["many_tensors"]:
        where = f"{row['tensors']} tensors, {row['case']}, {row['dtype']}, {row['threads']} thread(s)"
        if row["elements"] > LARGE // 2:
            yield _target(f"{where}: x one flat array", 1.5, row["to_flat"])
        if on_cpu:
            found = row["call_microseconds"]["median"]
            yield {"what": f"{where}: us a tensor", "at_most": 2.0, "cpu": found, "wall": None, "met": found < 2.0}


def _step(report: Mapping[str, Any]) -> Iterator[Target]:
    for row in report["rows"]:
        what = f"{row['case']}, {row['micro_batches']} micro-batch(es): x plain addition"
        yield _target(what, 1.03, row)


def _memory(report: Mapping[str, Any]) -> Iterator[Target]:
    plain = {
        (row["batch"], row["length"], row["micro_batches"]): row for row in report["rows"] if row["case"] == "plain"
    }
    for row in report["rows"]:
        shape = row["batch"], row["length"], row["micro_batches"]
        if row["case"].startswith("plain"):
            continue
        # With many tokens the second graph that plain addition keeps alive weighs more than a gradient set.
        sets = 0 if row["batch"] * row["length"] >= 2048 else 1
        found = (row["peak_mib"] - plain[shape]["peak_mib"]) / report["gradient_set_mib"]
        what = f"{row['case']}, {shape[0]} x {shape[1]} tokens, {shape[2]} micro-batch(es): gradient sets above plain"
        yield {"what": what, "at_most": sets, "cpu": None, "wall": found, "met": found <= sets}


def _imports(report: Mapping[str, Any]) -> Iterator[Target]:
    yield _target("import retainfirst: x import torch", 1.2, report)


def _target(what: str, at_most: float, found: Mapping[str, Any]) -> Target:
    cpu, wall = (found[f"{kind}_ratio"] and found[f"{kind}_ratio"]["median"] for kind in ("cpu", "wall"))
    met = all(value is None or value <= at_most for value in (cpu, wall))
    return {"what": what, "at_most": at_most, "cpu": cpu, "wall": wall, "met": met}


def _verify(_: Mapping[str, Any]) -> Iterator[Target]:
    """Nothing but that it uses all cores, which depends on what else the machine does."""
    return iter(())


_JUDGES = {"combine": _combine, "step": _step, "memory": _memory, "imports": _imports, "verify": _verify}
