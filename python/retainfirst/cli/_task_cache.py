"""Accuracies of tasks that were asked before, kept in a folder by what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst.evaluation import TASKS, Score
from retainfirst.files import json_text, write_whole
from retainfirst.weights import weights_digest

__all__ = ["cached_scores"]


def cached_scores(
    folder: Path,
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    settings: dict[str, Any],
    data_dir: Path | None,
    include_path: Path | None,
    ask: Callable[[Sequence[str]], list[Score]],
) -> list[Score]:
    """Return the scores of tasks, and ask only those that the folder does not have.

    A file of the folder is named by a digest of the model's weights, its tokenizer, the task, the settings, the versions, and the
    content of the task's local file and of the folder with task files of your own. What a task reads from elsewhere is known by
    its name alone.

    Args:
        folder: Made if it is absent.
        model: The model.
        tokenizer: Its tokenizer.
        tasks: The tasks.
        settings: What else decides about the numbers, such as the limit and the versions.
        data_dir: The folder with the tasks' local files, or None.
        include_path: The folder with task files of your own, or None.
        ask: Measures tasks.

    Raises:
        RetainFirstError: The folder cannot be made or written; or as ``ask`` raises.
    """
    weights = weights_digest(model)
    if weights is None:  # some of the weights are elsewhere
        return ask(tasks)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetainFirstError(f"--cache {folder} cannot be made: {error.strerror or error}.") from error
    shared = [weights, tokenizer.get_vocab(), tokenizer.chat_template, settings, _folder_content(include_path)]
    found: dict[tuple[str, str], Score] = {}
    for task in tasks:
        key = json.dumps([*shared, task, _content(task, data_dir)], sort_keys=True, default=str)
        file = folder / f"{task}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        scores = _read(file)
        if scores is None:
            scores = ask([task])
            write_whole(file, json_text([asdict(one) for one in scores], indent=1) + "\n")
        for one in scores:  # a task that is also a part of another one is shown once
            found.setdefault((one.task, one.metric), one)
    return list(found.values())


def _content(task: str, data_dir: Path | None) -> str | None:
    if data_dir is None or task not in TASKS:
        return None
    part, name = TASKS[task]
    local = next((path for path in (data_dir / name, data_dir / part / name) if path.is_file()), None)
    return None if local is None else hashlib.sha256(local.read_bytes()).hexdigest()


def _folder_content(folder: Path | None) -> dict[str, str] | None:
    if folder is None:
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _read(file: Path) -> list[Score] | None:
    """Return what a file holds; None if it is absent or damaged."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [Score(**{name: _number(name, value) for name, value in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError):
        return None


def _number(name: str, value: Any) -> Any:
    """Return JSON's null as the NaN that a score has in its place."""
    return float("nan") if value is None and name in ("value", "stderr", "chance") else value
