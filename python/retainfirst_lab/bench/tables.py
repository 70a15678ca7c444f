"""The tables of a benchmark report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retainfirst_lab.bench.targets import LARGE, targets
from retainfirst_lab.report.markdown import render
from retainfirst_lab.report.table import Table, count_cell, number_cell, spread_cell

__all__ = ["conditions", "markdown", "tables"]

Report = Mapping[str, Any]

# A pair of this size fits into a cache, and takes much longer than the call itself.
_CACHED = 1_000_000


def tables(report: Report) -> list[Table]:
    """Return the tables of a report, and last the targets that it misses."""
    found = list(_MAKERS[report["benchmark"]](report))
    judged = targets(report)
    if judged:
        missed = [
            [one["what"], f"{one['at_most']:.2f}", number_cell(one["cpu"]), number_cell(one["wall"])]
            for one in judged
            if not one["met"]
        ]
        title = f"Targets: {len(judged) - len(missed)} of {len(judged)} met" + ("; missed:" if missed else "")
        found.append(Table(title, ["target", "at most", "CPU time", "wall time"], missed))
    return found


def conditions(report: Report) -> str:
    """Return one line with the machine, the settings and the versions of a report."""
    machine, versions = report["machine"], report["versions"]
    where = machine["processor"] + ("" if machine["device"] == "cpu" else f", {machine['device']}")
    used = report.get("threads")
    how = [
        f"{where}, {machine['cores']} core(s)",
        "" if used is None else f"threads: {', '.join(map(str, used)) if isinstance(used, list) else used}",
        f"rounds: {report['rounds']}" if "rounds" in report else "",
        f"{report['parameters'] / 1e6:.1f} M parameters" if "parameters" in report else "",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        report["date"][:10],
    ]
    return "; ".join(part for part in how if part) + "."


def markdown(report: Report) -> str:
    """Return the tables as Markdown, below the line of :func:`conditions`."""
    return f"{conditions(report)}\n\n{render(tables(report), '**{}**')}\n"


def _combine(report: Report) -> Iterator[Table]:
    rows = report["rows"]
    speeds = []
    for one in report["bandwidth"]:
        found = [number_cell(one.get(f"{case}_gb_s"), 1) for case in ("copy", "baseline")]
        speeds.append([one["dtype"], str(one["threads"]), count_cell(one["elements"]), *found])
    yield Table("Memory, GB/s", ["dtype", "threads", "elements", "copy", "r = g f + a r"], speeds)
    for threads in report["threads"]:
        for dtype in dict.fromkeys(row["dtype"] for row in rows):
            mine = [row for row in rows if (row["dtype"], row["threads"]) == (dtype, threads)]
            sizes = sorted({row["elements"] for row in mine})
            # The largest sizes only; the figure and the JSON have all of them.
            sizes = [n for n in sizes if n >= LARGE] or sizes[-1:]
            columns = ["case", *(f"{count_cell(n)}, {kind}" for n in sizes for kind in ("CPU", "wall"))]
            cells = []
            for case in dict.fromkeys(row["case"] for row in mine):
                by_size = {row["elements"]: row for row in mine if row["case"] == case}
                cells.append([case, *(cell for n in sizes for cell in _cells(by_size.get(n)))])
            yield Table(f"{dtype}, {threads} thread(s): x {mine[0]['against']}", columns, cells)
    yield from _per_element(report)
    against = [
        [row["case"], what, f"{row['dtype']}, {count_cell(row['elements'])}", str(row["threads"]), *_cells(row[key])]
        for row in rows
        for key, what in (("to_passes", "its passes"), ("to_update_alone", "update alone"))
        if key in row and row["elements"] >= min(LARGE, max(one["elements"] for one in rows))
    ]
    if against:
        columns = ["combiner", "compared with", "elements", "threads", "CPU", "wall"]
        yield Table("Combiners compared with their own parts", columns, against)
    many = [
        [
            row["case"],
            row["dtype"],
            str(row["threads"]),
            *_cells(row["to_flat"]),
            spread_cell(row["call_microseconds"], 1),
        ]
        for row in report["many_tensors"]
    ]
    title = "{tensors} tensors, {elements:,} elements in all, x one flat array".format(**report["many_tensors"][0])
    yield Table(title, ["combiner", "dtype", "threads", "CPU", "wall", "a call, us per tensor"], many)


def _per_element(report: Report) -> Iterator[Table]:
    """Compare a size that fits into a cache with the largest: equal times mean that instructions, not memory, bound a case."""
    threads = report["threads"][0]
    rows = [row for row in report["rows"] if row["threads"] == threads]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    sizes = sorted({row["elements"] for row in rows})
    if report["machine"]["device"] != "cpu" or _CACHED not in sizes or sizes[-1] < LARGE:
        return
    seconds = {(row["case"], row["dtype"], row["elements"]): row["seconds"]["median"] for row in rows}
    cells = []
    for case in ("baseline", "sum, update alone", "sum", "sago, update alone", "sago", "dot products", "pcgrad"):
        found = [(dtype, n, seconds[case, dtype, n]) for dtype in dtypes for n in (_CACHED, sizes[-1])]
        cells.append([case, *(f"{1e12 * time / n:.0f}" for _, n, time in found)])
    columns = ["case", *(f"{dtype}, {count_cell(n)}" for dtype in dtypes for n in (_CACHED, sizes[-1]))]
    yield Table(f"Picoseconds per element, {threads} thread(s)", columns, cells)


def _step(report: Report) -> Iterator[Table]:
    rows = [
        [row["case"], str(row["micro_batches"]), *_cells(row), spread_cell(row["plain_seconds"])]
        for row in report["rows"]
    ]
    title = "A step of {} x {} tokens for each task, x plain addition".format(*report["tokens"])
    yield Table(title, ["case", "microbatches", "CPU time", "wall time", "plain, s"], rows)
    if "trainers" in report:
        rows = [[row["case"], *_cells(row), spread_cell(row["plain_seconds"])] for row in report["trainers"]]
        title = "A trainer's step of {} x {} tokens for each task, x its own".format(*report["tokens"])
        yield Table(title, ["case", "CPU time", "wall time", "own, s"], rows)


def _guard(report: Report) -> Iterator[Table]:
    rows = [[row["case"], str(row["threads"]), *_cells(row), number_cell(row["gb_s"], 1)] for row in report["passes"]]
    title = f"One pass in float32, {report['passes'][0]['elements']:,} elements, x the limit of its memory traffic"
    yield Table(title, ["case", "threads", "CPU time", "wall time", "limit, GB/s"], rows)
    step = "A step of {} x {} tokens for each task with AdamW".format(*report["tokens"])
    rows = [[row["rule"], row["case"], *_cells(row["within"], 3)] for row in report["steps"]]
    yield Table(f"{step}, x itself less the guard's own time", ["combiner", "guard", "CPU time", "wall time"], rows)
    rows = [[row["rule"], row["case"], *_cells(row), spread_cell(row["plain_seconds"])] for row in report["steps"]]
    columns = ["combiner", "guard", "CPU time", "wall time", "without, s"]
    yield Table(f"{step}, x another without a guard", columns, rows)


def _memory(report: Report) -> Iterator[Table]:
    rows = []
    for row in report["rows"]:
        [plain] = [
            one
            for one in report["rows"]
            if one["case"] == "plain" and all(one[k] == row[k] for k in ("batch", "length", "micro_batches"))
        ]
        above = (row["peak_mib"] - plain["peak_mib"]) / report["gradient_set_mib"]
        tokens = f"{row['batch']} x {row['length']}"
        rows.append([row["case"], tokens, str(row["micro_batches"]), f"{row['peak_mib']:.0f}", f"{above:+.2f}"])
    title = f"Peak of a step, above the model; one gradient set is {report['gradient_set_mib']:.0f} MiB"
    yield Table(title, ["case", "tokens", "microbatches", "MiB", "sets above plain"], rows)
    guarded = {row["case"]: row for row in report.get("guard", ())}
    rows = []
    for case, row in guarded.items():
        without = guarded[",".join(case.split(",")[:2])]
        above = (row["peak_mib"] - without["peak_mib"]) / report["gradient_set_mib"]
        rows.append([case, f"{row['peak_mib']:.0f}", f"{above:+.2f}"])
    if rows:
        title = "Peak of two steps with AdamW, {batch} x {length} tokens".format(**report["guard"][0])
        yield Table(title, ["case", "MiB", "sets above no guard"], rows)


def _imports(report: Report) -> Iterator[Table]:
    ratio = _cells(report)
    rows = [
        [f"import {name}", spread_cell(seconds), *(ratio if name == "retainfirst" else ("", ""))]
        for name, seconds in report["seconds"].items()
    ]
    yield Table("Start-up, x import torch", ["process", "seconds", "CPU time", "wall time"], rows)


def _verify(report: Report) -> Iterator[Table]:
    threads = report["threads"]
    columns = [*(f"{n} thread(s)" for n in threads), *(f"{n} x {threads[0]} thread(s)" for n in threads[1:])]
    parts = (
        ("elements", "The exact oracle, million elements per second", "call", 1e6, 0),
        ("pairs", "Every pair of 16-bit numbers, billion pairs per second", "combiner", 1e9, 2),
    )
    for counted, title, what, unit, digits in parts:
        mine = [row for row in report["rows"] if counted in row]
        cells = []
        for case, dtype, count in dict.fromkeys((row["case"], row["dtype"], row[counted]) for row in mine):
            found = [row for row in mine if (row["case"], row["dtype"], row[counted]) == (case, dtype, count)]
            speeds = [number_cell(row["per_second"] / unit, digits) for row in found]
            cells.append(
                [case, dtype, count_cell(count), *speeds, *(spread_cell(row["speed_up"]) for row in found[1:])]
            )
        yield Table(title, [what, "dtype", counted, *columns], cells)
    rows = [
        [
            one["dtype"],
            count_cell(one["elements"]),
            number_cell(one["per_second"] / 1e6),
            spread_cell(one["speed_up"], 0),
        ]
        for one in report["fractions"]
    ]
    title = f"compare_cosines compared with fractions.Fraction, {threads[0]} thread(s)"
    yield Table(title, ["dtype", "elements", "Fraction, million elements per second", "speed-up of the oracle"], rows)


_MAKERS = {
    "combine": _combine,
    "step": _step,
    "guard": _guard,
    "memory": _memory,
    "imports": _imports,
    "verify": _verify,
}


def _cells(row: Mapping[str, Any] | None, digits: int = 2) -> tuple[str, str]:
    """CPU and wall ratio."""
    if row is None:
        return "", ""
    return spread_cell(row["cpu_ratio"], digits), spread_cell(row["wall_ratio"], digits)
