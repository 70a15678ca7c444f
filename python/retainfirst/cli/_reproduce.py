"""``retainfirst reproduce``: the paper's tables on small models."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from retainfirst.cli._options import words
from retainfirst.cli._worth_opening import worth_opening
from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.files import json_text
from retainfirst.progress import Progress

if TYPE_CHECKING:
    from retainfirst_lab.reproduce import Tier

__all__ = ["reproduce"]

Option = typer.Option
_TIERS = ("quick", "full", "smollm2")


def reproduce(
    output: Annotated[Path, Option(help="Output folder: new, empty, or that of a run to continue.")],
    tier: Annotated[
        str,
        Option(
            help="quick: minutes, one seed; full: all combiners, sweeps and seeds; smollm2: a real small model, hours."
        ),
    ] = "quick",
    seeds: Annotated[
        str | None, Option(help="Fresh seeds to report on, with commas between, such as 300,301. Default: the tier's.")
    ] = None,
    only: Annotated[
        str | None, Option(help="Run only these objectives and combiners, with commas between, such as ga,sum,sago.")
    ] = None,
    part: Annotated[
        str | None,
        Option(
            help="Run only this part: combiners (the paper's tables), guard (with and without the guard) or attacks (what"
            " quantisation and relearning bring back). Default: all."
        ),
    ] = None,
    jobs: Annotated[int | None, Option(min=1, help="Processes, each with one thread. Default: 2.")] = None,
    budget: Annotated[
        float | None, Option(help="Minutes for the smollm2 tier; below 90 a smaller size is run. Default: 150.")
    ] = None,
    model: Annotated[
        str | None,
        Option(help="For smollm2: folder or hub name of the model to teach. Default: SmolLM2-135M from PyPI."),
    ] = None,
    data_dir: Annotated[
        Path | None, Option(help="For smollm2: folder with the local files of TOFU and ARC, instead of the hub.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print the summary as JSON instead of the table.")] = False,
) -> None:
    """Compare the combiners at equal forgetting, beside the paper's numbers.

    The output folder gets results.json (everything), report.md, and report.html with the figures. To continue an interrupted
    run, or to add seeds to a finished one, give the same command again.

    Examples:

        retainfirst reproduce --output outputs/quick

        retainfirst reproduce --tier full --output outputs/full

        retainfirst reproduce --output outputs/ga --only ga,sum,sago --seeds 300,301,302

        retainfirst reproduce --tier full --part guard --output outputs/guard

        retainfirst reproduce --tier full --part attacks --output outputs/attacks

        retainfirst reproduce --tier smollm2 --output outputs/smollm2 --budget 30
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.reproduce import PARTS
    from retainfirst_lab.reproduce import reproduce as run

    chosen = _tier(tier, seeds, {"minutes": budget, "model": model, "data_dir": data_dir})
    try:
        parts = words(part) or PARTS
        with Progress() as bar:
            results = run(
                chosen, output, jobs=jobs, only=words(only), parts=parts, command=_command(), progress=bar.show
            )
    except KeyboardInterrupt:
        kept = f"interrupted; the finished part is kept in {output}: give the same command again"
        Console(stderr=True, soft_wrap=True).print(kept, highlight=False)
        raise typer.Exit(130) from None
    if as_json:
        print(json_text(_summary(results)))
    else:
        _show(results, output)


def _tier(name: str, seeds: str | None, options: dict[str, Any]) -> Tier:
    from retainfirst_lab.reproduce import FULL, QUICK, SmolTier

    if name not in _TIERS:
        raise RetainFirstError(f"Unknown tier {name!r}. {did_you_mean(name, _TIERS)}")
    given = {option: value for option, value in options.items() if value is not None}
    if given and name != "smollm2":
        raise RetainFirstError(f"--budget, --model and --data-dir belong to the tier smollm2, not to {name}.")
    tier: Tier = SmolTier(**given) if name == "smollm2" else {"quick": QUICK, "full": FULL}[name]
    if seeds is None:
        return tier
    try:
        wanted = [int(seed) for seed in words(seeds)]
    except ValueError as error:
        raise RetainFirstError(f"--seeds needs whole numbers with commas between, found {seeds!r}.") from error
    if not wanted or min(wanted) < 0:
        raise RetainFirstError(f"--seeds needs at least one number, none below 0, found {seeds!r}.")
    return tier.with_seeds(dict.fromkeys(wanted))


def _command() -> str:
    return shlex.join(["retainfirst", *sys.argv[1:]])


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    """The results without the runs, which are long."""
    found = {name: value for name, value in results.items() if name != "cells"}
    for part in ("guard", "attacks"):
        if part in found:
            found[part] = {name: value for name, value in found[part].items() if name != "cells"}
    return found


def _show(results: dict[str, Any], output: Path) -> None:
    from retainfirst_lab.report import terminal
    from retainfirst_lab.reproduce.agreement import verdict_sentence
    from retainfirst_lab.reproduce.attack_tables import attack_verdicts, terminal_attack_table
    from retainfirst_lab.reproduce.guard_tables import terminal_guard_table, verdict_line
    from retainfirst_lab.reproduce.tables import terminal_table

    console = Console()
    if "combiners" in results["parts"]:
        terminal.show(terminal_table(results), console, words=2)
        console.print(verdict_sentence(results), highlight=False)
    if "guard" in results:
        terminal.show(terminal_guard_table(results), console, words=5)
        console.print(verdict_line(results), highlight=False)
    if "attacks" in results:
        terminal.show(terminal_attack_table(results), console, words=4)
        console.print(attack_verdicts(results), highlight=False)
    worth_opening(
        {
            output / "report.html": "the report, with figures and the paper's numbers",
            output / "report.md": "the same without figures",
            output / "results.json": "every run, with settings and versions",
        }
    )
