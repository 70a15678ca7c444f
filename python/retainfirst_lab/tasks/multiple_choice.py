"""The multiple-choice tasks of a facts model, beside those of :mod:`retainfirst.evaluation`.

The questions about the facts are drawn from the configuration that is saved with the model. lm-eval's own command finds
them too: ``lm_eval --include_path <YAML_FOLDER> --model_args pretrained=<folder> --tasks retainfirst_facts_forget``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from retainfirst import evaluation
from retainfirst.errors import RetainFirstError
from retainfirst.evaluation import Score, TaskFile, answered_right
from retainfirst_lab.tasks._facts_words import FACTS_CONFIG_KEY
from retainfirst_lab.tasks.facts import FactsConfig, facts_parts, write_files

__all__ = ["TASKS", "YAML_FOLDER", "Score", "answered_right", "default_tasks", "score"]

YAML_FOLDER = Path(__file__).with_name("lm_eval")
"""The folder of the facts tasks' files."""

_PREFIX = "retainfirst_facts_"
_PARTS = ("forget", "retain", "held_out", "unrelated", "forget_paraphrased")

TASKS: Mapping[str, tuple[str, str]] = {_PREFIX + part: ("", f"{part}.jsonl") for part in _PARTS} | dict(
    evaluation.TASKS
)
"""All tasks, each with the folder and the name of its local file."""


def default_tasks(model: Any) -> tuple[str, ...]:
    """Return the tasks that fit a model: its facts for a facts model, those of TOFU for any other.

    Args:
        model: A transformers model.

    Returns:
        Names out of :data:`TASKS`.
    """
    config = _facts_config(model)
    if config is not None:
        return tuple(_PREFIX + part for part in facts_parts(config))
    return tuple(name for name in TASKS if name.startswith("retainfirst_tofu_"))


def score(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    batch_size: int | Literal["auto"] = 16,
    chat_template: bool = False,
    include_path: str | Path | None = None,
) -> list[Score]:
    """Return a model's accuracy on tasks, the facts tasks included.

    Args:
        model: As in :func:`retainfirst.evaluation.multiple_choice`, like the other arguments.
        tokenizer: Its tokenizer.
        tasks: Names out of :data:`TASKS`, of ``include_path`` or of lm-eval.
        data_dir: The folder of TOFU's and ARC's questions; None: from the hub.
        limit: Ask the first questions of each task only; None: all.
        batch_size: Sequences in a forward pass; ``"auto"``: the most that lm-eval finds room for.
        chat_template: Ask through the tokenizer's chat template.
        include_path: A folder with task files of your own.

    Returns:
        The scores, in the order of ``tasks``; those of a group are followed by those of its subtasks.

    Raises:
        RetainFirstError: A task needs other facts than the model has, or see :func:`retainfirst.evaluation.multiple_choice`.
        MissingDependency: lm-eval is not installed (extra ``eval``).
    """
    with _facts_tasks(model, tasks) as own_tasks:
        return evaluation.multiple_choice(
            model, tokenizer, tasks, data_dir=data_dir, limit=limit, batch_size=batch_size, chat_template=chat_template,
            own_tasks=own_tasks, include_path=include_path,
        )  # fmt: skip


@contextmanager
def _facts_tasks(model: Any, tasks: Sequence[str]) -> Iterator[dict[str, TaskFile]]:
    """Write the questions about a model's facts to a temporary folder; refuse tasks about other facts."""
    config = _facts_config(model)
    with tempfile.TemporaryDirectory(prefix="retainfirst-facts-") as scratch:
        if config is not None:
            write_files(config, scratch)
        files = {part: Path(scratch) / f"{part}.jsonl" for part in _PARTS}
        own_tasks = {
            _PREFIX + part: TaskFile(YAML_FOLDER / f"{_PREFIX}{part}.yaml", file)
            for part, file in files.items()
            if file.exists()
        }
        for name in tasks:
            if name in TASKS and name.startswith(_PREFIX) and name not in own_tasks:
                reason = (
                    "asks about the facts of the built-in facts model; this is another model"
                    if config is None
                    else "asks about facts that this facts model does not have"
                )
                raise RetainFirstError(f"Task {name!r} {reason}.")
        yield own_tasks


def _facts_config(model: Any) -> FactsConfig | None:
    """Return the facts that a model was taught; None if it is no facts model."""
    stored = getattr(model.config, FACTS_CONFIG_KEY, None)
    return FactsConfig(**stored) if isinstance(stored, Mapping) else None
