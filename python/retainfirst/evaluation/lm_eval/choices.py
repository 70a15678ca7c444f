"""Rows of TOFU and ARC as ``question``, ``choices`` and ``gold``; lm-eval loads this file by its path, from the YAML files."""

from __future__ import annotations

import hashlib
from typing import Any

__all__ = ["from_arc", "from_perturbed"]


def from_perturbed(dataset: Any) -> Any:
    """Make choices of TOFU's right answer and its perturbed, wrong ones.

    The right answer's place is a hash of the question. lm-eval counts the first choice if all scores are equal or NaN, and a
    broken model must not be right by that.

    Args:
        dataset: A ``datasets.Dataset`` with ``question``, ``answer`` and ``perturbed_answer`` (a list).

    Returns:
        The data set with the columns ``question``, ``choices`` and ``gold``.
    """

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        wrong = row["perturbed_answer"]
        wrong = [wrong] if isinstance(wrong, str) else list(wrong)
        gold = int(hashlib.sha256(row["question"].encode()).hexdigest(), 16) % (len(wrong) + 1)
        return {"question": row["question"], "choices": [*wrong[:gold], row["answer"], *wrong[gold:]], "gold": gold}

    return _map(dataset, convert)


def from_arc(dataset: Any) -> Any:
    """Read ARC rows, of the hub (``choices.text``, ``choices.label``, ``answerKey``) or local.

    Args:
        dataset: A ``datasets.Dataset``; local rows have ``question``, ``choices`` (a list) and ``answer`` (an index).

    Returns:
        The data set with the columns ``question``, ``choices`` and ``gold``.
    """

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        if "answerKey" not in row:
            return {"question": row["question"], "choices": list(row["choices"]), "gold": row["answer"]}
        labels = row["choices"]["label"]
        return {"question": row["question"], "choices": row["choices"]["text"], "gold": labels.index(row["answerKey"])}

    return _map(dataset, convert)


def _map(dataset: Any, convert: Any) -> Any:
    return dataset.map(convert, remove_columns=dataset.column_names)
