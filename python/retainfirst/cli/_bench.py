"""``retainfirst bench``: the cost of combining gradients and of a training step."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from retainfirst.cli._options import numbers, set_options, words
from retainfirst.cli._worth_opening import worth_opening
from retainfirst.errors import RetainFirstError, require
from retainfirst.extension import require_extension
from retainfirst.files import json_text, refuse_unwritable, write_json, write_whole
from retainfirst.progress import Progress

__all__ = ["bench"]

Option = typer.Option
Report = Mapping[str, Any]
Tick = Callable[[str], object]

Device = Annotated[str, Option(help="cpu or cuda.")]
Rounds = Annotated[int | None, Option(min=1, help="Rounds in alternating order.")]
Threads = Annotated[int | None, Option(min=1, help="Threads. Default: as many as torch uses.")]
Quick = Annotated[bool, Option("--quick", help="Seconds instead of minutes: to see that it runs, not for numbers.")]

bench = typer.Typer(
    name="bench",
    help="Measure costs as ratios, side by side in one run: medians over rounds in alternating order (least-greatest).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


class Work(NamedTuple):
    """A benchmark that is ready to run.

    Attributes:
        steps: The number of calls of ``tick``.
        measure: Runs the benchmark and returns the report; calls ``tick`` with words for the progress bar.
    """

    steps: int
    measure: Callable[[Tick], Report]


def _benchmark(prepare: Callable[..., Work]) -> Callable[..., Work]:
    """Add a command that runs what a function prepares; its options are the function's and those of :func:`_run`."""
    own = inspect.signature(prepare, eval_str=True).parameters
    shared = list(inspect.signature(_run, eval_str=True).parameters.values())[2:]

    @functools.wraps(prepare)
    def command(**options: Any) -> None:
        require_extension("retainfirst bench")
        work = prepare(**{name: options.pop(name) for name in own})
        _run(prepare.__name__, work, **options)

    set_options(command, (*own.values(), *shared))
    bench.command()(command)
    return prepare


def _run(
    name: str,
    work: Work,
    output: Annotated[
        Path | None,
        Option(help="Folder that gets NAME.json and, except for guard, imports and verify, the figure NAME.png."),
    ] = None,
    write: Annotated[
        Path | None, Option(help="A page such as docs/performance.md whose tables are to be replaced.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print the results as JSON instead of the tables.")] = False,
    check: Annotated[bool, Option("--check", help="Exit with 1 if a target of docs/performance.md is missed.")] = False,
) -> None:
    """Measure with a progress bar, then write and print the report. Bad outputs are refused before."""
    from retainfirst_lab.bench.figure import draw
    from retainfirst_lab.bench.page import insert
    from retainfirst_lab.bench.targets import targets

    if output is not None:
        require("matplotlib", "plot")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RetainFirstError(f"Output {output} cannot be made a folder: {error}") from error
        refuse_unwritable(output / f"{name}.json")
    if write is not None:
        refuse_unwritable(write)
        if not write.is_file():
            raise RetainFirstError(f"Page {write} does not exist; give one with places for the tables.")
    with Progress() as bar:
        counter = itertools.count(1)
        bar.show(f"bench {name}", 0, work.steps)
        report = dict(work.measure(lambda case: bar.show(f"bench {name}", next(counter), work.steps, case)))
    report["targets"] = targets(report)
    if output is not None:
        write_json(output / f"{name}.json", report)
        draw(report, output / f"{name}.png")
    if write is not None:
        write_whole(write, insert(write.read_text(encoding="utf-8"), report))
    if as_json:
        print(json_text(report))
    else:
        _show(report)
        _worth_opening(name, output, write)
    if check and not all(one["met"] for one in report["targets"]):
        raise typer.Exit(1)


def _worth_opening(name: str, output: Path | None, write: Path | None) -> None:
    files = {} if write is None else {write: "the page, with the new tables"}
    if output is not None:
        files |= {
            output / f"{name}.png": "the figure",
            output / f"{name}.json": "all numbers, with machine and versions",
        }
    worth_opening(files)


def _show(report: Report) -> None:
    from retainfirst_lab.bench.tables import conditions, tables
    from retainfirst_lab.report import terminal

    console = Console()
    for found in tables(report):
        terminal.show(found, console)
    console.print(conditions(report), highlight=False, soft_wrap=True)


@_benchmark
def combine(
    sizes: Annotated[str | None, Option(help="Numbers of elements, such as 1e6,1e7. Default: 1e3 to 1e8.")] = None,
    dtypes: Annotated[str, Option(help="Of float32, bfloat16 and float16.")] = "float32,bfloat16,float16",
    threads: Annotated[
        str | None, Option(help="Numbers of threads, such as 1,2. Default: 1, and 2 if there are.")
    ] = None,
    rounds: Rounds = None,
    peers: Annotated[bool, Option(help="Measure other implementations too, if they are installed.")] = True,
    device: Device = "cpu",
    quick: Quick = False,
) -> Work:
    """Time the combiners on gradients, beside the memory's bandwidth and beside other implementations.

    The baseline is r = g f + a r in place; on a GPU it is the bandwidth of a copy. Both are measured in every round.

    Examples:

        retainfirst bench combine --output outputs/bench

        retainfirst bench combine --sizes 1e7 --dtypes bfloat16 --threads 1 --no-peers

        retainfirst bench combine --quick --json
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench.combine import Plan, measure
    from retainfirst_lab.bench.machine import cores

    plan = Plan(
        sizes=numbers("--sizes", sizes or ("1e3,1e4,1e5" if quick else "1e3,1e4,1e5,1e6,1e7,1e8")),
        dtypes=words(dtypes),
        threads=numbers("--threads", threads) if threads else ((1, 2) if cores() > 1 else (1,)),
        rounds=rounds or (2 if quick else 15),
        peers=peers,
        device=device,
    )
    return Work(plan.steps, functools.partial(measure, plan))


@_benchmark
def step(
    rounds: Rounds = None,
    micro_batches: Annotated[str | None, Option(help="Numbers of microbatches in a step. Default: 1,4.")] = None,
    batch: Annotated[int, Option(min=1, help="Rows of a microbatch, for each task.")] = 4,
    length: Annotated[int, Option(min=2, help="Tokens of a row.")] = 128,
    threads: Threads = None,
    device: Device = "cpu",
    quick: Quick = False,
) -> Work:
    """Time a training step of a Llama of 50 M parameters, beside plain addition of the two losses, by hand and by a trainer.

    Examples:

        retainfirst bench step --output outputs/bench

        retainfirst bench step --micro-batches 1 --rounds 21 --threads 1
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench.step import measure

    counts = numbers("--micro-batches", micro_batches or ("1" if quick else "1,4"))
    rounds = rounds or (1 if quick else 7)
    shape: dict[str, Any] = {"batch": batch, "length": 8 if quick else length, "micro_batches": counts}
    run = functools.partial(measure, rounds, **shape, threads=threads, device=device, small=quick)
    return Work(rounds * (len(counts) + 1), lambda tick: run(tick=tick))


@_benchmark
def guard(
    elements: Annotated[str | None, Option(help="Parameters of the pass, such as 1e7. Default: 1e8.")] = None,
    threads: Annotated[
        str | None, Option(help="Numbers of threads of the pass, such as 1,2. Default: 1, and 2 if there are.")
    ] = None,
    rounds: Rounds = None,
    batch: Annotated[int, Option(min=1, help="Rows of a step, for each task.")] = 4,
    length: Annotated[int, Option(min=2, help="Tokens of a row.")] = 128,
    device: Device = "cpu",
    quick: Quick = False,
) -> Work:
    """Time the guard: its pass beside memory traffic, and what it takes of a step of AdamW.

    The pass is compared with r = g f + a r in place, times the numbers that it reads and writes; on a GPU with a copy. It is
    measured five times as often as the step, which is that of a Llama of 50 M parameters.

    Examples:

        retainfirst bench guard --output outputs/bench

        retainfirst bench guard --elements 1e7 --threads 1 --rounds 21
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench.guard import Plan, measure
    from retainfirst_lab.bench.machine import cores

    [count] = numbers("--elements", elements or ("1e4" if quick else "1e8"))[:1]
    plan = Plan(
        elements=count,
        threads=numbers("--threads", threads) if threads else ((1, 2) if cores() > 1 else (1,)),
        rounds=rounds or (1 if quick else 7),
        batch=batch,
        length=8 if quick else length,
        device=device,
        small=quick,
    )
    return Work(plan.steps, functools.partial(measure, plan))


@_benchmark
def memory(threads: Threads = None, device: Device = "cpu", quick: Quick = False) -> Work:
    """Measure the peak memory of a training step, each case in a process of its own.

    Plain addition is measured as one backward pass over the sum of the losses, and as one for each loss. Linux, or a GPU.

    Examples:

        retainfirst bench memory --output outputs/bench

        retainfirst bench memory --device cuda --json
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench.memory import SHAPES, cases, measure
    from retainfirst_lab.bench.model import Shape

    shapes = (Shape(2, 8, 1),) if quick else SHAPES
    run = functools.partial(measure, shapes, threads=threads, device=device, small=quick)
    return Work(len(cases(shapes, device)), lambda tick: run(tick=tick))


@_benchmark
def imports(rounds: Rounds = None, quick: Quick = False) -> Work:
    """Time `import retainfirst` beside `import torch`, each in a fresh process.

    Examples:

        retainfirst bench imports
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench.imports import measure

    rounds = rounds or (1 if quick else 11)
    return Work(rounds, lambda tick: measure(rounds, tick=tick))


@_benchmark
def verify(
    sizes: Annotated[str | None, Option(help="Numbers of elements, such as 1e6,1e7. Default: 1e3,1e6,1e7.")] = None,
    threads: Annotated[
        str | None, Option(help="Numbers of threads, such as 1,2. Default: 1, and one per core if there are more.")
    ] = None,
    rounds: Rounds = None,
    quick: Quick = False,
) -> Work:
    """Time the exact oracle and the check of every pair of 16-bit numbers, by number of threads.

    The oracle also runs beside the exact fractions of Python's standard library, with the smallest number of elements.

    Examples:

        retainfirst bench verify --output outputs/bench

        retainfirst bench verify --sizes 1e7 --threads 1,2,4
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench.machine import cores
    from retainfirst_lab.bench.verify import Plan, measure

    plan = Plan(
        sizes=numbers("--sizes", sizes or ("1e3" if quick else "1e3,1e6,1e7")),
        rows=8 if quick else 1 << 12,
        threads=numbers("--threads", threads) if threads else tuple(dict.fromkeys((1, cores()))),
        rounds=rounds or (2 if quick else 9),
    )
    return Work(plan.steps, functools.partial(measure, plan))
