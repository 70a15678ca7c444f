"""The targets of the benchmarks, and whether a report meets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retainfirst_lab.bench.trainers import OWN, SPLIT

__all__ = ["LARGE", "Target", "targets"]

LARGE = 10_000_000
"""From this number of elements on, memory bandwidth is expected to bound the time of a combination."""

Target = dict[str, Any]
"""``what`` (its name), ``group``, ``at_most``, ``cpu`` and ``wall`` (the medians; None where there is none), and ``met``."""

_ELEMENTWISE = ("sum", "sago", "sago_keep_retain")
_TO_BASELINE = {"float32": 1.15, "bfloat16": 1.3, "float16": 1.3}
_GUARDS = {"enforce": 1.05, "measure every 10th step": 1.01}
# A copy of the parameters; of the retain gradient; and of the forget gradient.
_COPIES = {
    "sago, AdamW, enforce": 1,
    "pcgrad, AdamW, enforce": 2,
    "sago, AdamW, measure": 3,
    "pcgrad, AdamW, measure": 3,
}
# At least 90 % of a copy's bandwidth.
_TO_COPY = 1 / 0.9


Report = Mapping[str, Any]


def targets(report: Report) -> list[Target]:
    """Compare the medians of a report with their targets; empty where no target applies, as with small sizes only."""
    return list(_JUDGES[report["benchmark"]](report))


def _combine(report: Report) -> Iterator[Target]:
    on_cpu = report["machine"]["device"] == "cpu"
    for row in report["rows"]:
        where = f"{row['dtype']}, {row['elements']:,}, {row['threads']} thread(s)"
        if row["elements"] < LARGE:
            continue
        if row["case"] in _ELEMENTWISE:
            most = _TO_BASELINE[row["dtype"]] if on_cpu else _TO_COPY
            what = f"x {row['against']}"
            yield _target(f"{row['case']}, {where}: {what}", f"element-wise combiners, {where}: {what}", most, row)
        for key, combiners, what in (
            ("to_passes", "PCGrad and BLUR", "x their two passes"),
            ("to_update_alone", "geometry", "x the update alone"),
        ):
            if key in row:
                yield _target(f"{row['case']}, {where}: {what}", f"{combiners}, {where}: {what}", 1.1, row[key])
    for row in report["many_tensors"]:
        where = f"{row['tensors']} tensors, {row['case']}, {row['dtype']}, {row['threads']} thread(s)"
        group = f"{row['tensors']} tensors, {row['case']}, {row['threads']} thread(s)"
        if row["elements"] > LARGE // 2:
            yield _target(f"{where}: x one flat array", f"{group}: x one flat array", 1.5, row["to_flat"])
        if on_cpu:
            found = row["call_microseconds"]["median"]
            yield _judged(f"{where}: us per tensor", f"{group}: us per tensor", 2.0, found, None)


def _step(report: Report) -> Iterator[Target]:
    for row in report["rows"]:
        what = f"{row['micro_batches']} microbatch(es): x plain addition"
        yield _target(f"{row['case']}, {what}", f"a step, {what}", 1.03, row)
    for row in report.get("trainers", ()):
        what = "x the trainer's own step"
        yield _target(f"{row['case']}: {what}", f"a trainer: {what}", 1.03, row)


def _guard(report: Report) -> Iterator[Target]:
    for row in report["passes"]:
        where = f"{row['elements']:,} elements, {row['threads']} thread(s)"
        if row["elements"] >= LARGE:
            what = f"{where}: x the limit of its memory traffic"
            yield _target(f"{row['case']}, {what}", f"the guard's pass, {what}", 1.15, row)
    for row in report["steps"]:
        # Two equal steps may differ by more than the target allows, so that the guard is also timed within one.
        for what, found in (
            ("x the step less the guard's own time", row["within"]),
            ("x another step without a guard", row),
        ):
            most = _GUARDS[row["case"]]
            yield _target(f"{row['rule']}, {row['case']}: {what}", f"guard, {row['case']}: {what}", most, found)


def _memory(report: Report) -> Iterator[Target]:
    plain = {
        (row["batch"], row["length"], row["micro_batches"]): row for row in report["rows"] if row["case"] == "plain"
    }
    for row in report["rows"]:
        shape = row["batch"], row["length"], row["micro_batches"]
        if row["case"].startswith("plain") or row["case"] == OWN:
            continue
        # With many tokens the second activation graph of plain addition, which a split trainer has too, is larger than a gradient
        # set.
        sets = 0 if row["batch"] * row["length"] >= 2048 and row["case"] != SPLIT else 1
        found = (row["peak_mib"] - plain[shape]["peak_mib"]) / report["gradient_set_mib"]
        what = f"{shape[0]} x {shape[1]} tokens, {shape[2]} microbatch(es): gradient sets above plain"
        yield _judged(f"{row['case']}, {what}", f"memory, {what}", sets, None, found)
    without = {row["case"]: row["peak_mib"] for row in report.get("guard", ())}
    for case, sets in _COPIES.items():
        if case in without:
            above = (without[case] - without[case.rpartition(",")[0]]) / report["gradient_set_mib"]
            what = "gradient sets above the step without a guard"
            # What is freed before the step makes room for some of it; pages and buffers may add a little.
            yield _judged(f"{case}: {what}", f"memory, guard: {what}", sets + 0.1, None, above)


def _imports(report: Report) -> Iterator[Target]:
    what = "import retainfirst: x import torch"
    yield _target(what, what, 1.2, report)


def _verify(_: Report) -> Iterator[Target]:
    """No target is set: the speed-up depends on the load of the machine."""
    return iter(())


def _target(what: str, group: str, at_most: float, found: Mapping[str, Any]) -> Target:
    cpu, wall = (found[f"{kind}_ratio"] and found[f"{kind}_ratio"]["median"] for kind in ("cpu", "wall"))
    return _judged(what, group, at_most, cpu, wall)


def _judged(what: str, group: str, at_most: float, cpu: float | None, wall: float | None) -> Target:
    met = all(value is None or value <= at_most for value in (cpu, wall))
    return {"what": what, "group": group, "at_most": at_most, "cpu": cpu, "wall": wall, "met": met}


_JUDGES = {
    "combine": _combine,
    "step": _step,
    "guard": _guard,
    "memory": _memory,
    "imports": _imports,
    "verify": _verify,
}
