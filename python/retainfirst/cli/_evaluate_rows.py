"""The part of ``retainfirst evaluate`` that measures rows: files and models to an evaluation, a table and a report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from retainfirst.cli._progress import progress
from retainfirst.data import pad_token_id, read_rows
from retainfirst.errors import RetainFirstError
from retainfirst.evaluation import (
    Attack,
    Evaluation,
    EvaluationSet,
    Measuring,
    by_prompts,
    by_quantization,
    by_relearning,
    evaluate,
    make_set,
    verdicts,
)
from retainfirst.evaluation._tables import headings, lines
from retainfirst.models import check_causal

__all__ = ["RowOptions", "check_same_tokenizer", "evaluate_rows", "read_files", "report_folder", "show_rows"]


@dataclass(frozen=True)
class RowOptions:
    """The options that are about rows; their meanings are in the command's help."""

    files: Mapping[str, str]
    limit: int | None
    batch_size: int
    max_length: int
    max_new_tokens: int
    chat_template: str
    quantize: tuple[int, ...]
    relearn: int | None
    relearn_rate: float
    prompt_attacks: bool


def read_files(files: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of each set.

    Raises:
        RetainFirstError: A file is missing or bad; the text names it.
    """
    return {name: read_rows(source) for name, source in files.items()}


def evaluate_rows(
    options: RowOptions,
    rows: Mapping[str, list[dict[str, Any]]],
    name: str,
    model: Any,
    tokenizer: Any,
    before: Any,
) -> Evaluation:
    """Measure a model on its device, and the one before.

    Args:
        options: The options.
        rows: Of :func:`read_files`.
        name: The model's, for error texts.
        model: The model.
        tokenizer: Its tokenizer.
        before: The model before unlearning, or None.

    Raises:
        RetainFirstError: A set, the tokenizer, the model or an option is bad; the text names it.
    """
    check_causal(name, model)
    pad_token_id(tokenizer)
    sets = {
        part: make_set(
            part, taken, tokenizer, options.max_length, source=options.files[part], limit=options.limit,
            chat_template=options.chat_template, model=model,
        )
        for part, taken in rows.items()
    }  # fmt: skip
    how = Measuring(batch_size=options.batch_size, max_new_tokens=options.max_new_tokens)
    with progress() as show:
        return evaluate(
            model, tokenizer, sets, before=before, attacks=_attacks(options, sets, tokenizer), how=how, progress=show
        )


def _attacks(options: RowOptions, sets: Mapping[str, EvaluationSet], tokenizer: Any) -> list[Attack]:
    found = [attack for bits in dict.fromkeys(options.quantize) for attack in by_quantization(bits, sets)]
    if options.relearn is not None:
        found += by_relearning(options.relearn, sets, tokenizer, learning_rate=options.relearn_rate)
    if options.prompt_attacks:
        found += by_prompts(sets, tokenizer, options.max_length, chat_template=options.chat_template)
    return found


def check_same_tokenizer(one: Any, other: Any, before: str) -> None:
    """Refuse two models that number their tokens differently.

    Raises:
        RetainFirstError: Their vocabularies differ.
    """
    if one.get_vocab() != other.get_vocab():
        raise RetainFirstError(
            f"--before {before}: its tokenizer is another one ({len(other.get_vocab())} tokens, the model's has "
            f"{len(one.get_vocab())}), so the two models cannot be compared. Give the model that was unlearned"
        )


def show_rows(found: Evaluation) -> None:
    """Print the table and the verdicts."""
    console = Console()
    table = Table()
    table.add_column("set", no_wrap=True)
    table.add_column("metric")
    for name in headings(found):
        table.add_column(name, justify="right")
    last = ""
    for one in lines(found):
        if last and one.set != last:
            table.add_section()
        table.add_row("" if one.set == last else one.set.replace("_", " "), one.title, *one.cells(intervals=False))
        last = one.set
    # A table that is too wide for the terminal would be cut; it is printed whole where nobody looks at a terminal.
    (console if console.is_terminal else Console(width=240, file=sys.stdout)).print(table)
    for verdict in verdicts(found):
        console.print(f"{verdict.question} [bold]{verdict.answer}[/]. ", end="", highlight=False)
        console.print(verdict.text, markup=False, highlight=False)


def report_folder(folder: Path | None) -> None:
    """Make the folder of the report.

    Raises:
        RetainFirstError: It is a file, or cannot be made.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetainFirstError(f"--report {folder} cannot be written: {error.strerror or error}.") from error
