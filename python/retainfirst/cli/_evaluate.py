"""``retainfirst evaluate``: multiple-choice accuracy of a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from retainfirst import __version__
from retainfirst.cli._options import words
from retainfirst.data import CHAT_TEMPLATE_MODES
from retainfirst.errors import RetainFirstError, did_you_mean, require
from retainfirst.files import finite, json_text, refuse_unwritable, write_json
from retainfirst.models import find_device, load_model, load_tokenizer

if TYPE_CHECKING:
    from retainfirst.evaluation import Score

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[str, typer.Option(help="Folder or hub name of a causal language model.")],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Task names with commas between, of retainfirst or lm-eval. "
            "Default: the facts of a facts model, the four TOFU tasks for other models."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with local files of TOFU and ARC, in place of the hub.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first N questions of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in a forward pass.")] = 16,
    device: Annotated[
        str | None, typer.Option(help="Device, such as cpu or cuda:0. Default: a GPU if there is one.")
    ] = None,
    chat_template: Annotated[
        str, typer.Option(help="auto: use the tokenizer's chat template if it has one; always; never.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Also write the JSON to this file, replacing it if it exists.")
    ] = None,
) -> None:
    """Measure multiple-choice accuracy by lm-eval.

    Tasks of retainfirst for any model: retainfirst_tofu_forget10, retainfirst_tofu_retain, retainfirst_tofu_real_authors,
    retainfirst_tofu_world_facts, retainfirst_arc_easy.

    For the facts model that `retainfirst unlearn` unlearns without --model: retainfirst_facts_forget, retainfirst_facts_retain.

    For a facts model that was made with further facts (FactsConfig in retainfirst_lab.tasks.facts), which the built-in one
    lacks: retainfirst_facts_held_out, retainfirst_facts_unrelated, retainfirst_facts_forget_paraphrased.

    Examples:

        retainfirst evaluate --model unlearned

        retainfirst evaluate --model HuggingFaceTB/SmolLM2-135M-Instruct --limit 50 --json

        retainfirst evaluate --model unlearned --tasks retainfirst_tofu_retain,arc_easy --data-dir data/tofu
    """  # noqa: D412 - the command's help text, not Google sections
    from retainfirst_lab.tasks.multiple_choice import default_tasks, score

    if tasks is not None and not words(tasks):
        raise RetainFirstError(f"No task in {tasks!r}. Give names with commas between, or leave --tasks out.")
    if data_dir is not None and not data_dir.is_dir():
        raise RetainFirstError(f"Data folder {data_dir} does not exist.")
    if chat_template not in CHAT_TEMPLATE_MODES:
        hint = did_you_mean(chat_template, CHAT_TEMPLATE_MODES)
        raise RetainFirstError(f"Unknown chat template mode {chat_template!r}. {hint}")
    if output is not None:
        refuse_unwritable(output)
    place = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    network, tokenizer = _load(model, place)
    scores = score(
        network,
        tokenizer,
        words(tasks) or default_tasks(network),
        data_dir=data_dir,
        limit=limit,
        batch_size=batch_size,
        chat_template=chat_template == "always" or (chat_template == "auto" and bool(tokenizer.chat_template)),
    )
    report = _report(model, limit, scores)
    if output is not None:
        write_json(output, report)
    if as_json:
        print(json_text(report))
    else:
        _print_table(report)


def _load(model: str, place: torch.device) -> tuple[Any, Any]:
    """Return the model on its device, and its tokenizer."""
    require("lm_eval", "eval")
    import datasets

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()  # one per file, each for a moment; lm-eval's own bar over the questions stays
    tokenizer, network = load_tokenizer(model), load_model(model)
    try:
        network.to(place)
    except RuntimeError as error:  # no memory, for one
        raise RetainFirstError(f"device '{place}' cannot be used: {str(error).splitlines()[0]}") from error
    return network, tokenizer


def _report(model: str, limit: int | None, scores: Sequence[Score]) -> dict[str, Any]:
    versions = {"retainfirst": __version__} | {name: version(name) for name in ("torch", "transformers", "lm_eval")}
    rows = [finite(asdict(score)) for score in scores]
    return {"model": model, "limit": limit, "versions": versions, "scores": rows}


def _print_table(report: dict[str, Any]) -> None:
    table = Table(title=f"Accuracy of {report['model']}")
    table.add_column("task", no_wrap=True)
    table.add_column("metric")
    for heading in ("value", "stderr", "n", "chance"):
        table.add_column(heading, justify="right")
    for row in report["scores"]:
        numbers = ["" if row[key] is None else f"{row[key]:.3f}" for key in ("value", "stderr", "chance")]
        table.add_row(row["task"], row["metric"], numbers[0], numbers[1], str(row["n"] or ""), numbers[2])
    Console().print(table)
