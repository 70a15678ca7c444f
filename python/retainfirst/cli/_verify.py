"""``retainfirst verify``: a check of the theorem book."""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from retainfirst import __version__
from retainfirst.cli._worth_opening import worth_opening
from retainfirst.errors import require
from retainfirst.extension import require_extension
from retainfirst.files import json_text, refuse_unwritable, write_json
from retainfirst.progress import Progress

if TYPE_CHECKING:
    from retainfirst.theory.checks import RealGradients
    from retainfirst.theory.verify import Job, Result

__all__ = ["verify"]

Option = typer.Option


def verify(
    statement: Annotated[
        list[str] | None, Option(help="A statement's number, such as T6; repeatable. Default: all.")
    ] = None,
    examples: Annotated[
        int, Option(min=1, help="Pairs of gradients to test for each statement, combiner, backend and format.")
    ] = 60,
    exhaustive: Annotated[
        bool, Option("--exhaustive", help="Also test both SAGO forms against T1 on every pair of 16-bit numbers.")
    ] = False,
    real_steps: Annotated[
        int, Option(min=0, help="Test the gradients of this many steps of the facts model; 0: no real gradients.")
    ] = 5,
    seed: Annotated[int, Option(min=0, help="Seed of the drawn pairs.")] = 0,
    output: Annotated[
        Path | None,
        Option(
            help="File for the results, replaced if it exists, or a folder that gets verification.json. Default: "
            "verification.json here, or the first free name of verification-2.json, verification-3.json, ..."
        ),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print the results as JSON instead of the table.")] = False,
) -> None:
    """Check the theorem book: by a solver, by random gradients, by all pairs of 16-bit numbers and by real gradients.

    T1 to T12 hold. X1 to X4 do not hold as stated; each is refuted by a counterexample. T9 to T12, X3 and X4 are about the step
    that an optimiser makes of an update. An exact oracle judges signs and orders, without tolerance. The exit code is 1 if a
    statement does not come out as the theorem book has it.

    Examples:

        retainfirst verify

        retainfirst verify --statement T6 --statement X1 --examples 1000

        retainfirst verify --exhaustive --output everything.json
    """  # noqa: D412 - the command's help text, not Google sections
    require_extension("retainfirst verify")
    from retainfirst.theory import STATEMENTS
    from retainfirst.theory import statement as by_number
    from retainfirst.theory.verify import plan, run

    chosen = [by_number(name) for name in dict.fromkeys(statement)] if statement else STATEMENTS
    output = _free_name(Path("verification.json")) if output is None else output
    output = output / "verification.json" if output.is_dir() else output
    refuse_unwritable(output)
    notes = []
    if real_steps and importlib.util.find_spec("transformers") is None:
        real_steps = 0
        notes.append("Real gradients were left out: they need transformers (pip install 'retainfirst[hf]').")
    start = time.perf_counter()
    with Progress() as bar:
        needed = real_steps and any(one.promised_by for one in chosen)
        real = _real_gradients(real_steps, seed, bar) if needed else None
        jobs = plan(chosen, examples=examples, exhaustive=exhaustive, real=real, seed=seed)
        total, done = sum(job.total for job in jobs), 0

        def tick(job: Job, units: int) -> None:
            nonlocal done
            done += units
            bar.show("checking", done, total, f"{job.statement.id} {job.how}")

        results = run(jobs, tick)
    options = {"examples": examples, "exhaustive": exhaustive, "real_steps": real_steps, "seed": seed}
    report = _report(results, options, notes)
    write_json(output, report)
    if as_json:
        print(json_text(report))
    else:
        _show(results, time.perf_counter() - start)
        print(*notes, sep="\n", end="\n" if notes else "")
        worth_opening({output: "all checks, with the counterexamples and the versions"})
    if not all(result.as_expected for result in results):
        raise typer.Exit(1)


def _free_name(path: Path) -> Path:
    """Return a path that does not exist: the given one, or with the first free number from 2 on."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not os.path.lexists(one))


def _real_gradients(steps: int, seed: int, bar: Progress) -> RealGradients:
    """Return the gradients of some steps of unlearning the built-in facts."""
    from retainfirst.theory.checks import RealGradients
    from retainfirst_lab.real_gradients import FORGET_WEIGHT, facts_gradients

    require("transformers", "hf").utils.logging.disable_progress_bar()  # its bars would interleave with ours
    stage, gradients = "gradients of the facts model", []
    bar.show(stage, 0, steps)
    for one in facts_gradients(steps, seed):
        gradients.append(one)
        bar.show(stage, len(gradients), steps)
    return RealGradients("facts model", FORGET_WEIGHT, gradients)


def _report(results: list[Result], options: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    versions = {"retainfirst": __version__} | {
        name: version(name) for name in ("torch", "numpy", "hypothesis", "z3-solver")
    }
    return {
        "statements": [result.as_dict() for result in results],
        **options,
        "notes": notes,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


_UNITS = {"solver": "proofs", "exhaustive": "pairs of numbers", "property": "pairs", "real": "pairs"}


def _show(results: list[Result], seconds: float) -> None:
    table = Table(title="The theorem book")
    for heading in ("statement", "how checked", "on", "count", "seconds", "verdict"):
        table.add_column(heading, justify="right" if heading in ("count", "seconds") else "left", overflow="fold")
    for result in results:
        lead = f"[bold]{result.statement.id}[/] {result.statement.title}"
        for check in result.checks:
            if check.verdict != check.expected:
                verdict = f"[bold red]{check.verdict}, but should be: {check.expected}[/]"
            else:
                verdict = "[green]holds[/]" if check.verdict == "holds" else "[green]refuted, as expected[/]"
            count = f"{check.count:,} {_UNITS[check.how].removesuffix('s' if check.count == 1 else '')}"
            table.add_row(lead, check.how, check.subject, count, f"{check.seconds:.1f}", verdict)
            lead = ""
        table.add_section()
    Console().print(table)
    for result in results:
        if result.counterexample is not None:
            _show_counterexample(result)
        for check in result.checks:
            if check.verdict != check.expected:
                print(f"{result.statement.id}, {check.how}:", *check.details, sep="\n  ")
    good = sum(result.as_expected for result in results)
    print(f"{good} of {len(results)} statements are as the theorem book has them ({seconds:.0f} s).")


def _show_counterexample(result: Result) -> None:
    """Print vectors and cosines, except long ones, which only the file has."""
    case = result.counterexample or {}
    print(f"{result.statement.id} is refuted by ({case['dtype']}, alpha = {case['alpha']}, gamma = {case['gamma']}):")
    print(f"  forget = {_vector(case['forget'])}, retain = {_vector(case['retain'])}")
    for combiner, update in case["updates"].items():
        cosine = case["cosines"].get(combiner)
        angle = f"cos = {cosine['decimal']:.9f}, its square {_short(cosine['squared'])}" if cosine else "no cosine"
        dot = _short(case["dot_products"].get(combiner, "not finite"))
        print(f"  {combiner}: update = {_vector(update)}, <u, r> = {dot}, {angle}")
    step = case.get("step")
    if step is not None:
        for i, pair in enumerate(step["earlier"], 1):
            print(f"  step {i} before: forget = {_vector(pair['forget'])}, retain = {_vector(pair['retain'])}")
        print(
            f"  {step['optimizer']}, {result.statement.combiner}: from {_vector(step['before'])} to {_vector(step['after'])},"
        )
        print(f"    <d, r> = {_short(step['dot_product'] or 'not finite')} > 0")


def _vector(x: list[float]) -> str:
    return str(x) if len(x) <= 8 else f"({len(x)} elements)"


def _short(fraction: str) -> str:
    return fraction if len(fraction) <= 40 else "(a long fraction)"
