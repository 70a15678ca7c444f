"""Multiple-choice evaluation through lm-eval, in this process and on a model in memory.

The tasks are the YAML files in ``lm_eval/``; lm-eval's own tasks can be named too. TOFU and ARC come from the hub, or
from a local folder; the facts of the built-in facts model are drawn from its configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retainfirst_lab.tasks import _harness
from retainfirst_lab.tasks._harness import FACTS_PREFIX, TASKS, YAML_FOLDER
from retainfirst_lab.tasks.facts import facts_parts

__all__ = ["TASKS", "YAML_FOLDER", "Score", "answered_right", "default_tasks", "score"]


@dataclass(frozen=True)
class Score:
    """One number of an evaluation.

    Attributes:
        task: The task's name.
        metric: ``"acc"`` (most probable answer) or ``"acc_norm"`` (most probable a byte), or a metric of lm-eval.
        value: From 0 to 1 for these.
        stderr: Its standard error, NaN where lm-eval gives none.
        n: Questions that were asked, 0 where lm-eval does not say.
        chance: What guessing gives, NaN where it is unknown.
    """

    task: str
    metric: str
    value: float
    stderr: float
    n: int
    chance: float


def default_tasks(model: Any) -> tuple[str, ...]:
    """Return the tasks that fit a model: its facts for a facts model, else those of TOFU.

    Args:
        model: A transformers model.

    Returns:
        Names out of ``TASKS``.
    """
    config = _harness.facts_config(model)
    if config is not None:
        return tuple(FACTS_PREFIX + part for part in facts_parts(config))
    return tuple(name for name in TASKS if name.startswith("retainfirst_tofu_"))


def score(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    chat_template: bool = False,
) -> list[Score]:
    """Run tasks on a model.

    Args:
        model: A causal language model of transformers, on the device where it shall run.
        tokenizer: Its tokenizer.
        tasks: Names out of ``TASKS``, or of lm-eval.
        data_dir: Folder with local files (``forget10_perturbed.jsonl``, ...; or ``tofu/forget10_perturbed.jsonl``,
            ``arc_easy/test.jsonl``), instead of the hub.
        limit: At most so many questions of each task, the first ones.
        batch_size: Sequences in a forward pass.
        chat_template: Ask through the tokenizer's chat template.

    Returns:
        The numbers, task by task in the order of ``tasks``.

    Raises:
        RetainFirstError: A task is unknown or does not fit the model, a file is absent, the hub is unreachable, or the
            batch size or limit is below 1.
        MissingDependency: lm-eval is not installed (extra ``eval``).
    """
    found = _harness.run(
        model, tokenizer, tasks, data_dir=data_dir, limit=limit, batch_size=batch_size, chat_template=chat_template
    )
    return _read_scores(found, tasks)


def answered_right(
    model: Any, tokenizer: Any, task: str, *, data_dir: str | Path | None = None, batch_size: int = 16
) -> list[bool]:
    """Return, question by question, whether the right answer is the most probable a byte (``acc_norm``).

    Args:
        model: As in :func:`score`.
        tokenizer: Its tokenizer.
        task: A name out of ``TASKS``, of a task that has ``acc_norm``.
        data_dir: As in :func:`score`.
        batch_size: Sequences in a forward pass.

    Returns:
        One truth value a question, in the order of its file.

    Raises:
        RetainFirstError: As in :func:`score`.
        MissingDependency: lm-eval is not installed (extra ``eval``).
    """
    found = _harness.run(model, tokenizer, [task], data_dir=data_dir, batch_size=batch_size)
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
    """Mean over the questions of one over the number of choices; NaN where there are none to choose from."""
    counts = [len(sample["resps"]) for sample in samples]
    return sum(1 / count for count in counts) / len(counts) if counts and min(counts) > 1 else math.nan
