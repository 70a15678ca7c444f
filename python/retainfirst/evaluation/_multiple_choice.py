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
        task: The name of the task or of the group.
        metric: ``"acc"`` (most probable answer), ``"acc_norm"`` (most probable per byte), or another of lm-eval's.
        value: The number, from 0 to 1 for these two.
        stderr: Its standard error; NaN if lm-eval gives none.
        n: The number of questions, of a group those of its tasks; 0 if lm-eval gives none.
        chance: The accuracy of guessing; NaN if it is unknown, or differs between the tasks of a group.
        group: The group whose row the task is a part of; None if there is none.
        higher_is_better: As the task says; None if it does not.
    """

    task: str
    metric: str
    value: float
    stderr: float
    n: int
    chance: float
    group: str | None = None
    higher_is_better: bool | None = None


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
    include_path: str | Path | None = None,
) -> list[Score]:
    """Return a model's accuracy on multiple-choice tasks, or what else lm-eval's tasks measure.

    Args:
        model: A causal language model of transformers, on its device.
        tokenizer: Its tokenizer.
        tasks: Names out of :data:`retainfirst.evaluation.TASKS`, of ``own_tasks``, of ``include_path`` or of lm-eval; groups too.
        data_dir: A folder with the questions of :data:`~retainfirst.evaluation.TASKS` (``forget10_perturbed.jsonl``, ...; or
            ``tofu/forget10_perturbed.jsonl``, ``arc_easy/test.jsonl``); None: from the hub.
        limit: Ask the first questions of each task only; None: all.
        batch_size: Sequences in a forward pass; ``"auto"``: the most that lm-eval finds room for.
        chat_template: Ask through the tokenizer's chat template.
        own_tasks: Tasks of your own, by name.
        include_path: A folder with task files in lm-eval's format. lm-eval's own tasks are looked for only if one of ``tasks``
            is not in it, so a group in it should have tasks that are in it too.

    Returns:
        The scores, in the order of ``tasks``; those of a group are followed by those of its subtasks.

    Raises:
        RetainFirstError: A task is unknown or part of another one, a file is absent, the hub is unreachable, or the batch size or
            limit is below 1.
        MissingDependency: lm-eval is not installed (extra ``eval``).
    """
    found = run(
        model, tokenizer, tasks, data_dir=data_dir, limit=limit, batch_size=batch_size, chat_template=chat_template,
        own_tasks=own_tasks, include_path=include_path,
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
    children: Mapping[str, Sequence[str]] = found.get("group_subtasks", {})
    parents = {child: group for group, names in children.items() for child in names}
    scores = []
    for task in _in_order([*order, *found["results"]], children):
        leaves = _leaves(task, children)
        chance = _common([_chance(found.get("samples", {}).get(leaf, [])) for leaf in leaves])
        n = sum(int(found.get("n-samples", {}).get(leaf, {}).get("effective", 0)) for leaf in leaves)
        better = found.get("higher_is_better", {}).get(task) or {}
        numbers = found["results"].get(task, {})
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
                    n=n,
                    chance=chance if metric in ("acc", "acc_norm") else math.nan,
                    group=parents.get(task),
                    higher_is_better=better.get(metric),
                )
            )
    return scores


def _in_order(names: Sequence[str], children: Mapping[str, Sequence[str]]) -> list[str]:
    """Return each name once, and the members of a group after it."""
    found: dict[str, None] = {}
    for name in names:
        if name not in found:
            found |= dict.fromkeys([name, *_in_order(children.get(name, ()), children)])
    return list(found)


def _leaves(task: str, children: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the tasks of a group, those of its groups too; a task alone."""
    members = children.get(task)
    return [leaf for name in members for leaf in _leaves(name, children)] if members else [task]


def _chance(samples: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean of 1 over the number of choices; NaN if a question has no choices."""
    counts = [len(sample["resps"]) for sample in samples]
    return sum(1 / count for count in counts) / len(counts) if counts and min(counts) > 1 else math.nan


def _common(values: Sequence[float]) -> float:
    """Return the value if all are equal; else NaN."""
    return values[0] if all(math.isclose(value, values[0]) for value in values) else math.nan
