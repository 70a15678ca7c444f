"""Rows of the data sets as ``question``, ``choices`` and ``gold``; named by the YAML files beside it.

lm-eval loads this file by its path; only the facts, which are drawn from a configuration, need the package.
"""

from __future__ import annotations

import hashlib
from typing import Any

__all__ = ["facts_of_model", "from_arc", "from_facts", "from_perturbed"]


def from_perturbed(dataset: Any) -> Any:
    """Make choices of TOFU's right answer and its perturbed, wrong ones.

    The right answer takes a place that depends on the question: a model whose scores are all equal, or NaN,
    gets the first choice counted, and must not be right by that.

    Args:
        dataset: A ``datasets.Dataset`` with ``question``, ``answer`` and ``perturbed_answer`` (a list).

    Returns:
        The data set with the three columns of this module.
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
        The data set with the three columns of this module.
    """

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        if "answerKey" not in row:
            return {"question": row["question"], "choices": list(row["choices"]), "gold": row["answer"]}
        labels = row["choices"]["label"]
        return {"question": row["question"], "choices": row["choices"]["text"], "gold": labels.index(row["answerKey"])}

    return _map(dataset, convert)


def from_facts(dataset: Any) -> Any:
    """Read the rows that ``retainfirst_lab.tasks.facts.write_files`` writes.

    Args:
        dataset: A ``datasets.Dataset`` with ``prompt``, ``choices`` and ``answer`` (an index).

    Returns:
        The data set with the three columns of this module.
    """
    return _map(dataset, lambda row: {"question": row["prompt"], "choices": row["choices"], "gold": row["answer"]})


def facts_of_model(part: str, pretrained: str, **_: Any) -> dict[str, Any]:
    """Draw the facts that a facts model was taught, from the configuration that is saved with it.

    Args:
        part: ``forget``, ``retain``, ``held_out``, ``unrelated`` or ``forget_paraphrased``.
        pretrained: The model's folder or hub name, as in ``lm_eval --model_args pretrained=...``.
        **_: What else lm-eval passes.

    Returns:
        The rows as the split ``train``, the one that the tasks name.

    Raises:
        ValueError: It is no facts model, or one without such facts.
    """
    from datasets import Dataset
    from transformers import AutoConfig

    from retainfirst_lab.tasks._facts_words import FACTS_CONFIG_KEY
    from retainfirst_lab.tasks.facts import FactsConfig, facts_parts

    stored = getattr(AutoConfig.from_pretrained(pretrained), FACTS_CONFIG_KEY, None)
    rows = facts_parts(FactsConfig(**stored)).get(part) if stored else None
    if rows is None:
        raise ValueError(f"{pretrained} has no facts of the kind {part!r}: it is no facts model, or one without them.")
    return {"train": Dataset.from_list([dict(row) for row in rows])}


def _map(dataset: Any, convert: Any) -> Any:
    return dataset.map(convert, remove_columns=dataset.column_names)
