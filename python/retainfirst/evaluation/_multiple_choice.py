"""Multiple-choice accuracy by lm-eval, in this process and on a model in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retainfirst.evaluation._harness import TaskFile, run

__all__ = ["Score", "answered_right", "multiple_choice"]


@dataclass(frozen=True)
class Score:
    """One number of an evaluation.

    Attributes:
        task: The task's name.
        metric: ``"acc"`` (most probable answer), ``"acc_norm"`` (most probable per byte), or another of lm-eval's.
        value: The number, from 0 to 1 for these two.
        stderr: Its standard error; NaN if lm-eval gives none.
        n: The number of questions; 0 if lm-eval gives none.
        chance: The accuracy of guessing; NaN if it is unknown.
    """

    task: str
    metric: str
    value: float
    stderr: float
    n: int
    chance: float


def multiple_choice(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    batch_size: int | Literal["auto"] = 16,
    chat_template: bool = False,
    own_tasks: Mapping[str, TaskFile] | None = None,
) -> list[Score]:
    """Return a model's accuracy on multiple-choice tasks.

    Args:
        model: A causal language model of transformers, on its device.
        tokenizer: Its tokenizer.
        tasks: Names out of :data:`retainfirst.evaluation.TASKS`, of ``own_tasks`` or of lm-eval.
        data_dir: A folder with the questions of :data:`~retainfirst.evaluation.TASKS` (``forget10_perturbed.jsonl``, ...; or
            ``tofu/forget10_perturbed.jsonl``, ``arc_easy/test.jsonl``); None: from the hub.
        limit: Ask the first questions of each task only; None: all.
        batch_size: Sequences in a forward pass; ``"auto"``: the most that lm-eval finds room for.
        chat_template: Ask through the tokenizer's chat template.
        own_tasks: Tasks of your own, by name.

    Returns:
        The scores, in the order of ``tasks``.

    Raises:
        RetainFirstError: A task is unknown, a file is absent, the hub is unreachable, or the batch size or limit is below 1.
        MissingDependency: lm-eval is not installed (extra ``eval``).
    """
    found = run(
        model, tokenizer, tasks, data_dir=data_dir, limit=limit, batch_size=batch_size, chat_template=chat_template,
        own_tasks=own_tasks,
    )  # fmt: skip
    return _read_scores(found, tasks)


def answered_right(
    model: Any, tokenizer: Any, task: str, *, data_dir: str | Path | None = None, batch_size: int | Literal["auto"] = 16
) -> list[bool]:
    """Return for each question whether the right answer is the most probable per byte (``acc_norm``).

    Args:
        model: As in :func:`multiple_choice`.
        tokenizer: Its tokenizer.
        task: A task that has ``acc_norm``.
        data_dir: As in :func:`multiple_choice`.
        batch_size: Sequences in a forward pass.

    Returns:
        One truth value per question, in the order of its file.

    Raises:
        RetainFirstError: As in :func:`multiple_choice`.
        MissingDependency: lm-eval is not installed (extra ``eval``).
    """
    found = run(model, tokenizer, [task], data_dir=data_dir, batch_size=batch_size)
    return [bool(one["acc_norm"]) for one in sorted(found["samples"][task], key=lambda one: int(one["doc_id"]))]


def _read_scores(found: Any, order: Sequence[str]) -> list[Score]:
    scores = []
    place = {task: index for index, task in enumerate(order)}
    for task, numbers in sorted(found["results"].items(), key=lambda item: place.get(item[0], len(place))):
        chance = _chance(found.get("samples", {}).get(task, []))
        n = found.get("n-samples", {}).get(task, {}).get("effective", 0)
        for key, value in numbers.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = numbers.get(f"{metric}_stderr,{filtered}")
            scores.append(
                Score(
                    task=task,
                    metric=metric,
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, int | float) else math.nan,
                    n=int(n),
                    chance=chance if metric in ("acc", "acc_norm") else math.nan,
                )
            )
    return scores


def _chance(samples: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean of 1 over the number of choices; NaN if a question has no choices."""
    counts = [len(sample["resps"]) for sample in samples]
    return sum(1 / count for count in counts) / len(counts) if counts and min(counts) > 1 else math.nan
