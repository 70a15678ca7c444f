"""``retainfirst bench``: what the rules and a step cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from retainfirst.errors import RetainFirstError, require
from retainfirst.files import json_text, refuse_unwritable, write_json

__all__ = ["bench"]

Option = typer.Option
Report = Mapping[str, Any]

Device = Annotated[str, Option(help="cpu or cuda.")]
Rounds = Annotated[int | None, Option(min=1, help="Rounds in alternating order.")]
Threads = Annotated[int | None, Option(min=1, help="Threads. Default: as many as torch uses.")]
Quick = Annotated[bool, Option("--quick", help="Seconds instead of minutes: to see that it runs, not for numbers.")]
Output = Annotated[
    Path | None, Option(help="Folder that gets NAME.json and, but for imports and verify, the figure NAME.png.")
]
Write = Annotated[Path | None, Option(help="A page such as docs/performance.md whose tables are to be replaced.")]
AsJson = Annotated[bool, Option("--json", help="Print the results as JSON instead of the tables.")]
Check = Annotated[bool, Option("--check", help="Exit with 1 if a target of docs/performance.md is missed.")]

bench = typer.Typer(
    name="bench",
    help="Measure costs as ratios, side by side in one run: medians over rounds in alternating order (least-greatest).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@bench.command()
def combine(
    sizes: Annotated[str | None, Option(help="Numbers of elements, such as 1e6,1e7. Default: 1e3 to 1e8.")] = None,
    dtypes: Annotated[str, Option(help="Of float32, bfloat16 and float16.")] = "float32,bfloat16,float16",
    threads: Annotated[
        str | None, Option(help="Numbers of threads, such as 1,2. Default: 1, and 2 if there are.")
    ] = None,
    rounds: Rounds = None,
    peers: Annotated[bool, Option(help="Measure other implementations too, those that are installed.")] = True,
    device: Device = "cpu",
    quick: Quick = False,
    output: Output = None,
    write: Write = None,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Time the rules on gradients, beside what the memory allows and beside other implementations.

    The limit is r = g f + a r in place, on a GPU the bandwidth of a copy; both are measured in every round.

    Examples:

        retainfirst bench combine --output outputs/bench

        retainfirst bench combine --sizes 1e7 --dtypes bfloat16 --threads 1 --no-peers

        retainfirst bench combine --quick --json
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench import combine as benchmark
    from retainfirst_lab.bench.machine import cores

    usual = "1e3,1e4,1e5" if quick else "1e3,1e4,1e5,1e6,1e7,1e8"
    plan = benchmark.Plan(
        sizes=_numbers("sizes", sizes or usual),
        dtypes=_words(dtypes),
        threads=_numbers("threads", threads) if threads else ((1, 2) if cores() > 1 else (1,)),
        rounds=rounds or (2 if quick else 15),
        peers=peers,
        device=device,
    )
    _run("combine", plan.steps, lambda tick: benchmark.measure(plan, tick), output, write, as_json, check)


@bench.command()
def step(
    rounds: Rounds = None,
    micro_batches: Annotated[str | None, Option(help="Numbers of micro-batches a step. Default: 1,4.")] = None,
    batch: Annotated[int, Option(min=1, help="Rows of a micro-batch, for each task.")] = 4,
    length: Annotated[int, Option(min=2, help="Tokens of a row.")] = 128,
    threads: Threads = None,
    device: Device = "cpu",
    quick: Quick = False,
    output: Output = None,
    write: Write = None,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Time a training step of a Llama of 50 M parameters, beside plain addition of the two losses.

    Examples:

        retainfirst bench step --output outputs/bench

        retainfirst bench step --micro-batches 1 --rounds 21 --threads 1
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench import step as benchmark

    counts = _numbers("micro-batches", micro_batches or ("1" if quick else "1,4"))
    rounds = rounds or (1 if quick else 7)

    def measure(tick: Callable[[str], object]) -> Report:
        return benchmark.measure(
            rounds, batch=batch, length=8 if quick else length, micro_batches=counts, threads=threads, device=device,
            small=quick, tick=tick,
        )  # fmt: skip

    _run("step", rounds * len(counts), measure, output, write, as_json, check)


@bench.command()
def memory(
    threads: Threads = None,
    device: Device = "cpu",
    quick: Quick = False,
    output: Output = None,
    write: Write = None,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Measure what a training step holds at its peak, each case in a process of its own.

    Plain addition is measured as one backward pass over the sum of the losses, and as one for each loss. Linux, or a GPU.

    Examples:

        retainfirst bench memory --output outputs/bench

        retainfirst bench memory --device cuda --json
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench import memory as benchmark
    from retainfirst_lab.bench.model import Shape

    shapes = (Shape(2, 8, 1),) if quick else benchmark.SHAPES
    total = len(benchmark.cases(shapes, device))

    def measure(tick: Callable[[str], object]) -> Report:
        return benchmark.measure(shapes, threads=threads, device=device, small=quick, tick=tick)

    _run("memory", total, measure, output, write, as_json, check)


@bench.command()
def imports(
    rounds: Rounds = None,
    quick: Quick = False,
    output: Output = None,
    write: Write = None,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Time `import retainfirst` beside `import torch`, each in a fresh process.

    Examples:

        retainfirst bench imports
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench import imports as benchmark

    rounds = rounds or (1 if quick else 11)
    _run("imports", rounds, lambda tick: benchmark.measure(rounds, tick=tick), output, write, as_json, check)


@bench.command()
def verify(
    sizes: Annotated[str | None, Option(help="Numbers of elements, such as 1e6,1e7. Default: 1e3,1e6,1e7.")] = None,
    threads: Annotated[
        str | None, Option(help="Numbers of threads, such as 1,2. Default: 1, and one a core if there are more.")
    ] = None,
    rounds: Rounds = None,
    quick: Quick = False,
    output: Output = None,
    write: Write = None,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Measure what the exact oracle and the check of every pair of 16-bit numbers get through, by number of threads.

    The oracle also runs beside the exact fractions of Python's standard library, with the smallest number of elements.

    Examples:

        retainfirst bench verify --output outputs/bench

        retainfirst bench verify --sizes 1e7 --threads 1,2,4
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.bench import verify as benchmark
    from retainfirst_lab.bench.machine import cores

    plan = benchmark.Plan(
        sizes=_numbers("sizes", sizes or ("1e3" if quick else "1e3,1e6,1e7")),
        rows=8 if quick else 1 << 12,
        threads=_numbers("threads", threads) if threads else tuple(dict.fromkeys((1, cores()))),
        rounds=rounds or (2 if quick else 9),
    )
    _run("verify", plan.steps, lambda tick: benchmark.measure(plan, tick), output, write, as_json, check)


def _run(
    name: str,
    steps: int,
    measure: Callable[[Callable[[str], object]], Report],
    output: Path | None,
    write: Path | None,
    as_json: bool,
    check: bool,
) -> None:
    """Measure with a progress bar; then write and show what was asked for. What can be refused is refused before."""
    from retainfirst_lab.bench.figure import draw
    from retainfirst_lab.bench.page import insert
    from retainfirst_lab.bench.tables import conditions, tables
    from retainfirst_lab.bench.targets import targets

    if output is not None:
        require("matplotlib", "plot")
        _make_folder(output)
        refuse_unwritable(output / f"{name}.json")
    if write is not None:
        refuse_unwritable(write)
        if not write.is_file():
            raise RetainFirstError(f"Page {write} does not exist; give one with places for the tables.")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(name, total=steps)
        report = dict(measure(lambda what: bars.update(bar, advance=1, description=what)))
    report["targets"] = targets(report)
    if output is not None:
        write_json(output / f"{name}.json", report)
        draw(report, output / f"{name}.png")
    if write is not None:
        write.write_text(insert(write.read_text(encoding="utf-8"), report), encoding="utf-8")
    if as_json:
        print(json_text(report))
    else:
        console = Console()
        for found in tables(report):
            shown = Table(title=found.title)
            for i, column in enumerate(found.columns):
                shown.add_column(column, justify="right" if i else "left", overflow="fold")
            for row in found.rows:
                shown.add_row(*row)
            console.print(shown if found.rows else found.title)
        console.print(conditions(report), highlight=False, soft_wrap=True)
    if check and not all(one["met"] for one in report["targets"]):
        raise typer.Exit(1)


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetainFirstError(f"Output {output} cannot be made a folder: {error}") from error


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(name: str, text: str) -> list[int]:
    """Whole numbers with commas between; 1e6 is one."""
    try:
        values = [float(word) for word in _words(text)]
        if not values or any(value < 1 or value != int(value) for value in values):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise RetainFirstError(
            f"--{name} needs whole numbers of 1 or more with commas between, found {text!r}."
        ) from error
    return list(dict.fromkeys(int(value) for value in values))
