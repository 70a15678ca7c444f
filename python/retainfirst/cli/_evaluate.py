"""``retainfirst evaluate``: what a model has forgotten and kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from retainfirst.cli._evaluate_rows import report_files, report_folder, show_rows
from retainfirst.cli._options import words
from retainfirst.cli._task_cache import cached_scores
from retainfirst.cli._worth_opening import worth_opening
from retainfirst.data import CHAT_TEMPLATE_MODES, set_pad_token
from retainfirst.errors import RetainFirstError, did_you_mean, require
from retainfirst.evaluation import (
    NF4,
    UNRELATED,
    RowOptions,
    check_same_tokenizer,
    evaluate_rows,
    read_files,
    report_data,
    run_facts,
    software,
    write_report,
)
from retainfirst.files import finite, json_text, refuse_unwritable, write_json
from retainfirst.models import find_device, load_model, load_tokenizer
from retainfirst.progress import Progress

if TYPE_CHECKING:
    from retainfirst.evaluation import Score

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[str, typer.Option(help="Folder or hub name of a causal language model.")],
    before: Annotated[
        str | None, typer.Option(help="The model before unlearning, with the same tokenizer, to compare with.")
    ] = None,
    forget: Annotated[
        str | None, typer.Option(help="Forget set, in a form that `unlearn` takes: measure what is left of it.")
    ] = None,
    retain: Annotated[str | None, typer.Option(help="Retain set, likewise. [with --forget]")] = None,
    held_out: Annotated[
        str | None,
        typer.Option(help="Rows of the same kind that the model was never trained on, for membership. [with --forget]"),
    ] = None,
    paraphrased: Annotated[str | None, typer.Option(help="The forget set in other words. [with --forget]")] = None,
    quantize: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure the model with weights of so many bits, 2 to 8; nf4: the 4 bits of bitsandbytes. Repeatable. "
            "[with --forget]"
        ),
    ] = None,
    relearn: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also measure after so many steps of fine-tuning on half of the forget rows, and on the "
            "retain rows. [with --forget]",
        ),
    ] = None,
    relearn_on: Annotated[
        str | None,
        typer.Option(
            help="Rows that have nothing to do with the forget set: also measure after fine-tuning on them. [with --relearn]"
        ),
    ] = None,
    relearn_rate: Annotated[float, typer.Option(help="Learning rate of that fine-tuning.")] = 2e-5,
    prompt_attacks: Annotated[
        bool, typer.Option("--prompt-attacks", help="Also ask for the forget answers otherwise. [with --forget]")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.html and evaluation.json, which are replaced. [with --forget]"),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Names of tasks or groups with commas between, of retainfirst or lm-eval. "
            "Default without --forget: the facts of a facts model, the four TOFU tasks for other models."
        ),
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="Folder with task files of your own, in lm-eval's format. [with --tasks]")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with local files of TOFU and ARC, in place of the hub.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the accuracies of tasks: the same model is not asked again. [for tasks]"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N rows of each set, or questions of each task.")
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Sequences in a forward pass; auto: for tasks, the most that lm-eval finds room for.")
    ] = "16",
    max_length: Annotated[int, typer.Option(min=2, help="Cut rows to this many tokens.")] = 512,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 200,
    pad_token: Annotated[str | None, typer.Option(help="Token to pad with, for tokenizers that have none.")] = None,
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
    """Measure what a model has forgotten and kept: on files of rows, and by lm-eval's multiple-choice tasks.

    With --forget it measures how probable the answers are, what the model says, memorisation, membership, and whether the answers
    are sensible; with --before also of the model before, and with --quantize, --relearn and --prompt-attacks under attack.
    A verdict in one sentence answers each question. docs/auditing.md explains each number.

    Tasks of retainfirst for any model: retainfirst_tofu_forget10, retainfirst_tofu_retain, retainfirst_tofu_real_authors,
    retainfirst_tofu_world_facts, retainfirst_arc_easy.

    For the facts model that `retainfirst unlearn` unlearns without --model: retainfirst_facts_forget, retainfirst_facts_retain.

    For a facts model that was made with further facts (FactsConfig in retainfirst_lab.tasks.facts), which the built-in one
    lacks: retainfirst_facts_held_out, retainfirst_facts_unrelated, retainfirst_facts_forget_paraphrased.

    Examples:

        retainfirst evaluate --model unlearned --before model --forget forget.jsonl --retain retain.jsonl --held-out other.jsonl
        --quantize 8 --quantize 4 --relearn 10 --prompt-attacks --report report

        retainfirst evaluate --model unlearned

        retainfirst evaluate --model HuggingFaceTB/SmolLM2-135M-Instruct --limit 50 --json

        retainfirst evaluate --model unlearned --before model --tasks retainfirst_tofu_retain,arc_easy --data-dir data/tofu

        retainfirst evaluate --model unlearned --before model --tasks mmlu,wmdp_bio --batch-size auto --cache outputs/scores
    """  # noqa: D412 - the command's help text, not Google sections
    if tasks is not None and not words(tasks):
        raise RetainFirstError(f"No task in {tasks!r}. Give names with commas between, or leave --tasks out.")
    if data_dir is not None and not data_dir.is_dir():
        raise RetainFirstError(f"Data folder {data_dir} does not exist.")
    if include_path is not None and tasks is None:
        raise RetainFirstError("--include-path needs --tasks, the names of the tasks or groups in it.")
    if include_path is not None and not include_path.is_dir():
        raise RetainFirstError(f"--include-path {include_path} is no folder.")
    if chat_template not in CHAT_TEMPLATE_MODES:
        hint = did_you_mean(chat_template, CHAT_TEMPLATE_MODES)
        raise RetainFirstError(f"Unknown chat template mode {chat_template!r}. {hint}")
    files = {
        "forget": forget, "retain": retain, "held_out": held_out, "paraphrased": paraphrased, UNRELATED: relearn_on,
    }  # fmt: skip
    given = {name: source for name, source in files.items() if source is not None}
    of_rows = {
        "--retain": retain, "--held-out": held_out, "--paraphrased": paraphrased, "--quantize": quantize, "--relearn": relearn,
        "--prompt-attacks": prompt_attacks, "--report": report,
    }  # fmt: skip
    alone = [name for name, value in of_rows.items() if value and forget is None]
    if alone:
        raise RetainFirstError(f"{alone[0]} needs --forget: it is about the rows that were to be forgotten.")
    if relearn_on is not None and relearn is None:
        raise RetainFirstError("--relearn-on needs --relearn, the number of steps to fine-tune on these rows.")
    size = _batch_size(batch_size)
    options = RowOptions(
        files=given, limit=limit, batch_size=16 if size == "auto" else size, max_length=max_length, max_new_tokens=max_new_tokens,
        chat_template=chat_template, quantize=_quantisers(quantize or ()), relearn=relearn, relearn_rate=relearn_rate,
        prompt_attacks=prompt_attacks,
    )  # fmt: skip
    if output is not None:
        refuse_unwritable(output)
    if forget is not None:
        require("rouge_score", "eval")
        require("scipy", "eval")
        if NF4 in options.quantize:
            require("bitsandbytes", "quantize")
        if report is not None:
            require("matplotlib", "plot")
            report_folder(report)
    if forget is None or tasks is not None:
        _need_lm_eval()
    place = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = read_files(given)

    with Progress() as bar:
        bar.show(f"loading {model}")
        network, tokenizer = _load(model, place, pad_token)
        former = None
        if before is not None:
            bar.show(f"loading {before}")
            former, its_tokenizer = _load(before, place, pad_token)
    if before is not None:
        check_same_tokenizer(tokenizer, its_tokenizer, before)
    found = evaluate_rows(options, rows, model, network, tokenizer, former) if forget is not None else None
    scores: list[Score] = []
    scores_before: list[Score] = []
    if found is None or tasks is not None:
        for one, into in ((network, scores), (former, scores_before)):
            if one is not None:
                into += _score(one, tokenizer, words(tasks), data_dir, include_path, limit, size, chat_template, cache)
    made = _report(model, before, limit, scores, scores_before)
    if found is not None:
        run = run_facts(model, network, before, former, options)
        made |= report_data(found, run)
        if report is not None:
            write_report(found, run, report)
    if output is not None:
        write_json(output, made)
    if as_json:
        print(json_text(made))
        return
    if found is not None:
        show_rows(found)
    if scores:
        _print_table(made)
    worth_opening(
        ({} if report is None else report_files(report))
        | ({} if output is None else {output: "the numbers, as --json prints them"})
    )


def _score(
    network: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    data_dir: Path | None,
    include_path: Path | None,
    limit: int | None,
    size: int | Literal["auto"],
    chat_template: str,
    cache: Path | None,
) -> list[Score]:
    from retainfirst_lab.tasks.multiple_choice import default_tasks, score

    template = chat_template == "always" or (chat_template == "auto" and bool(tokenizer.chat_template))

    def ask(some: Sequence[str]) -> list[Score]:
        return score(
            network, tokenizer, some, data_dir=data_dir, limit=limit, batch_size=size, chat_template=template,
            include_path=include_path,
        )  # fmt: skip

    asked = tasks or default_tasks(network)
    if cache is None:
        return ask(asked)
    settings = {"limit": limit, "chat_template": template, "versions": software()}
    return cached_scores(cache, network, tokenizer, asked, settings, data_dir, include_path, ask)


def _batch_size(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise RetainFirstError(f"--batch-size needs a whole number of 1 or more, or auto; found {text!r}.")
    return int(text)


def _quantisers(given: Sequence[str]) -> tuple[int | Literal["nf4"], ...]:
    found: list[int | Literal["nf4"]] = []
    for text in given:
        if text != NF4 and not (text.isdecimal() and 2 <= int(text) <= 8):
            raise RetainFirstError(f"--quantize needs a number of bits from 2 to 8, or {NF4}; found {text!r}.")
        found.append(NF4 if text == NF4 else int(text))
    return tuple(found)


def _need_lm_eval() -> None:
    """Check that lm-eval is there, and leave it its bar over the questions."""
    require("lm_eval", "eval")
    import datasets

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()  # one per file, each for a moment


def _load(model: str, place: torch.device, pad_token: str | None) -> tuple[Any, Any]:
    """Return the model on its device, and its tokenizer."""
    tokenizer, network = load_tokenizer(model), load_model(model)
    if pad_token is not None:
        set_pad_token(tokenizer, pad_token)
    try:
        network.to(place)
    except RuntimeError as error:  # no memory, for one
        raise RetainFirstError(f"device '{place}' cannot be used: {str(error).splitlines()[0]}") from error
    return network, tokenizer


def _report(
    model: str, before: str | None, limit: int | None, scores: Sequence[Score], scores_before: Sequence[Score]
) -> dict[str, Any]:
    made: dict[str, Any] = {"model": model, "limit": limit, "versions": software(), "scores": _rows(scores)}
    if before is None:
        return made
    former = {(one.task, one.metric): one.value for one in scores_before}
    for row, one in zip(made["scores"], scores, strict=True):
        row["kept"] = _kept(one, former.get((one.task, one.metric)))
    return made | {"before": before, "scores_before": _rows(scores_before)}


def _kept(one: Score, was: float | None) -> float | None:
    """Return the share that is left, as the paper gives it for MMLU; None for a metric of which less is better."""
    if not was or one.higher_is_better is False or not (math.isfinite(was) and math.isfinite(one.value)):
        return None
    return one.value / was


def _rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    return [finite(asdict(score)) for score in scores]


def _print_table(made: dict[str, Any]) -> None:
    table = Table(title=f"Accuracy of {made['model']}")
    table.add_column("task", no_wrap=True)
    table.add_column("metric")
    compared = "before" in made
    for heading in ("value", "stderr", "n", "chance", *(("before", "kept") if compared else ())):
        table.add_column(heading, justify="right")
    former = {(row["task"], row["metric"]): row["value"] for row in made.get("scores_before", ())}
    depth: dict[str, int] = {}
    for row in made["scores"]:
        depth[row["task"]] = depth.get(row["group"], -1) + 1
        task = "  " * depth[row["task"]] + row["task"]
        numbers = ["" if row[key] is None else f"{row[key]:.3f}" for key in ("value", "stderr", "chance")]
        cells = [task, row["metric"], numbers[0], numbers[1], str(row["n"] or ""), numbers[2]]
        if compared:
            was = former.get((row["task"], row["metric"]))
            cells += ["" if was is None else f"{was:.3f}", "" if row["kept"] is None else f"{row['kept']:.1%}"]
        table.add_row(*cells)
    Console().print(table)
