"""The rows of TOFU that SmolLM2 is taught and asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retainfirst.data import file_rows
from retainfirst.errors import RetainFirstError, require

__all__ = ["CHOICES", "FILES", "Row", "fewer_choices", "read_rows", "shortest", "unknown"]

Row = dict[str, Any]

CHOICES = 4

_PORTION = 32
FILES = {
    "forget10_perturbed": ("locuslab/TOFU", "forget10_perturbed", "train"),
    "retain_perturbed": ("locuslab/TOFU", "retain_perturbed", "train"),
    "real_authors_perturbed": ("locuslab/TOFU", "real_authors_perturbed", "train"),
    "world_facts_perturbed": ("locuslab/TOFU", "world_facts_perturbed", "train"),
    "test": ("allenai/ai2_arc", "ARC-Easy", "test"),
}
"""The data sets by the names of their local files: repository, configuration and split on the hub."""


def read_rows(name: str, data_dir: Path | None) -> list[Row]:
    """Read a data set, from a local file or from the hub.

    Args:
        name: The name of the local file, without extension.
        data_dir: The folder of the local files, or the parent of their folders ``tofu`` and ``arc_easy``; None: the hub.

    Raises:
        RetainFirstError: The file is absent or damaged, or the hub is unreachable.
    """
    if data_dir is not None:
        folders = [data_dir, data_dir / "tofu", data_dir / "arc_easy"]
        found = [folder / f"{name}.jsonl" for folder in folders if (folder / f"{name}.jsonl").is_file()]
        if not found:
            raise RetainFirstError(f"Data folder {data_dir} has no {name}.jsonl, nor has tofu or arc_easy in it.")
        return [row for _, row in file_rows(found[0])]
    repository, configuration, split = FILES[name]
    datasets = require("datasets", "hf")
    try:
        return [dict(row) for row in datasets.load_dataset(repository, configuration, split=split)]
    except Exception as error:  # datasets raises errors of many classes
        raise RetainFirstError(
            f"{repository} ({configuration}) cannot be loaded: {str(error).splitlines()[0]} Give the folder of its files as"
            " --data-dir."
        ) from error


def shortest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in order of their cost: the length of the question and its longest answer."""

    def length(row: Mapping[str, Any]) -> int:
        return len(row["question"]) + max(len(answer) for answer in (row["answer"], *row["perturbed_answer"]))

    return sorted(rows, key=length)


def unknown(rows: Sequence[Row], count: int, name: str, right: Callable[[Sequence[Row]], Sequence[bool]]) -> list[Row]:
    """Return the first ``count`` rows whose question the model answers wrong before it is taught.

    A question whose answer the model guesses from the wording shows neither teaching nor forgetting.

    Args:
        rows: Candidates; they are asked in this order, in portions, until enough are found.
        count: The number of rows to return.
        name: The name of the data set, for the error's text.
        right: Returns for each row whether the model's answer is right.

    Raises:
        RetainFirstError: There are fewer such rows.
    """
    found: list[Row] = []
    for start in range(0, len(rows), _PORTION):
        portion = rows[start : start + _PORTION]
        found += [row for row, known in zip(portion, right(portion), strict=True) if not known]
        if len(found) >= count:
            return found[:count]
    raise RetainFirstError(
        f"{name} has only {len(found)} rows that the model gets wrong before it is taught; {count} are needed. Take more rows or"
        " another model."
    )


def fewer_choices(row: Mapping[str, Any]) -> Row:
    """Keep the right answer and the first three wrong ones, so that chance is 0.25 for every question."""
    if "perturbed_answer" not in row:
        return dict(row)
    return {**row, "perturbed_answer": list(row["perturbed_answer"])[: CHOICES - 1]}
