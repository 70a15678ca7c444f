"""Which rows of TOFU SmolLM2 is taught and asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError, require

__all__ = ["CHOICES", "Row", "fewer_choices", "read_rows", "shortest", "unknown"]

Row = dict[str, Any]

CHOICES = 4

_PORTION = 32
_FILES = {
    "forget10_perturbed": ("locuslab/TOFU", "forget10_perturbed", "train"),
    "retain_perturbed": ("locuslab/TOFU", "retain_perturbed", "train"),
    "real_authors_perturbed": ("locuslab/TOFU", "real_authors_perturbed", "train"),
    "world_facts_perturbed": ("locuslab/TOFU", "world_facts_perturbed", "train"),
    "test": ("allenai/ai2_arc", "ARC-Easy", "test"),
}


def read_rows(name: str, data_dir: Path | None) -> list[Row]:
    """Read a data set, from a local file or from the hub.

    Args:
        name: Of the local file, without its ending.
        data_dir: Folder with the local files, or with ``tofu`` and ``arc_easy`` that have them; None: from the hub.

    Raises:
        RetainFirstError: The file is absent, or the hub unreachable.
    """
    if data_dir is not None:
        folders = [data_dir, data_dir / "tofu", data_dir / "arc_easy"]
        found = [folder / f"{name}.jsonl" for folder in folders if (folder / f"{name}.jsonl").is_file()]
        if not found:
            raise RetainFirstError(f"Data folder {data_dir} has no {name}.jsonl, nor has tofu or arc_easy in it.")
        return [json.loads(line) for line in found[0].read_text(encoding="utf-8").splitlines()]
    repository, configuration, split = _FILES[name]
    datasets = require("datasets", "hf")
    try:
        return [dict(row) for row in datasets.load_dataset(repository, configuration, split=split)]
    except Exception as error:  # the library raises a dozen kinds
        raise RetainFirstError(
            f"{repository} ({configuration}) cannot be loaded: {str(error).splitlines()[0]} Give the folder of its files as"
            " --data-dir."
        ) from error


def shortest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in the order of what they cost: the length of the question and its longest answer."""

    def length(row: Mapping[str, Any]) -> int:
        return len(row["question"]) + max(len(answer) for answer in (row["answer"], *row["perturbed_answer"]))

    return sorted(rows, key=length)


def unknown(rows: Sequence[Row], count: int, name: str, right: Callable[[Sequence[Row]], Sequence[bool]]) -> list[Row]:
    """Return the first rows whose question a model gets wrong before it is taught.

    Only these can show that it was taught them, and that it forgot them: what it guesses from the wording it never forgets.

    Args:
        rows: In the order in which they are asked, in portions, until there are enough.
        count: How many are needed.
        name: Of the data set, for the error's text.
        right: Whether the model's answers are right.

    Raises:
        RetainFirstError: There are not so many.
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
    """Leave TOFU's right answer and the first three wrong ones, so that chance is one quarter everywhere."""
    if "perturbed_answer" not in row:
        return dict(row)
    return {**row, "perturbed_answer": list(row["perturbed_answer"])[: CHOICES - 1]}
