"""One call of lm-eval, in this process and on a model in memory: its task files, its data and its errors."""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retainfirst.errors import RetainFirstError, require

__all__ = ["TASKS", "YAML_FOLDER", "TaskFile", "run"]

TASKS: Mapping[str, tuple[str, str]] = {
    "retainfirst_tofu_forget10": ("tofu", "forget10_perturbed.jsonl"),
    "retainfirst_tofu_retain": ("tofu", "retain_perturbed.jsonl"),
    "retainfirst_tofu_real_authors": ("tofu", "real_authors_perturbed.jsonl"),
    "retainfirst_tofu_world_facts": ("tofu", "world_facts_perturbed.jsonl"),
    "retainfirst_arc_easy": ("arc_easy", "test.jsonl"),
}
"""The tasks of this package, each with the folder and the name of its local file."""

YAML_FOLDER = Path(__file__).with_name("lm_eval")
"""The folder of their task files, for lm-eval's own ``--include_path``."""


@dataclass(frozen=True)
class TaskFile:
    """A task of your own.

    Attributes:
        yaml: Its task file, in lm-eval's format.
        rows: A file of JSON lines with its questions; None: as the task file says.
    """

    yaml: Path
    rows: Path | None = None


def run(
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
) -> dict[str, Any]:
    """Return lm-eval's results; :func:`retainfirst.evaluation.multiple_choice` has the arguments and errors."""
    require("lm_eval", "eval")
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if isinstance(value, int) and value < 1:
            raise RetainFirstError(f"{name} must be at least 1, found {value}.")
    if chat_template and not tokenizer.chat_template:
        raise RetainFirstError("The tokenizer has no chat template: evaluate without it.")
    known = [*(own_tasks or {}), *TASKS]
    # lm-eval takes many seconds to index its own tasks, so a name that can only be ours is checked without the index.
    _refuse_unknown([name for name in tasks if name.startswith("retainfirst_")], known, [])
    with tempfile.TemporaryDirectory(prefix="retainfirst-evaluate-") as scratch:
        files = {name: _task_file(name, own_tasks or {}, data_dir) for name in tasks if name in known}
        include = _write_tasks(files, Path(scratch), chat_template)
        folders = [str(include), *([] if include_path is None else [str(include_path)])]
        manager = TaskManager(include_path=folders, include_defaults=False)
        if not set(tasks) <= set(manager.all_tasks):
            manager = TaskManager(include_path=folders)
        _refuse_unknown(tasks, known, manager.all_tasks)
        device = str(next(model.parameters()).device)
        # lm-eval prints what it finds for a batch size of "auto" where results belong.
        with _task_errors(tasks, data_dir), _without_git(evaluator), redirect_stdout(sys.stderr):
            found: dict[str, Any] = evaluator.simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=device),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                apply_chat_template=chat_template,
                # None keeps lm-eval from seeding the global generators, which belong to the caller.
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
    return found


def _task_file(name: str, own_tasks: Mapping[str, TaskFile], data_dir: str | Path | None) -> TaskFile:
    if name in own_tasks:
        return own_tasks[name]
    return TaskFile(YAML_FOLDER / f"{name}.yaml", None if data_dir is None else _local_file(name, Path(data_dir)))


def _write_tasks(files: Mapping[str, TaskFile], scratch: Path, chat_template: bool) -> Path:
    """Write a YAML file for each task that includes the task's own and says where the rows are; return their folder."""
    include = scratch / "tasks"
    include.mkdir()
    for name, file in files.items():
        settings: dict[str, Any] = {"include": str(file.yaml), "task": name}
        if file.rows is not None:
            settings |= {"custom_dataset": None, "dataset_path": "json", "dataset_name": None, "test_split": "train"}
            settings["dataset_kwargs"] = {
                "data_files": {"train": str(file.rows.resolve())},
                "cache_dir": str(scratch / "cache"),
            }
        if chat_template:
            settings["doc_to_text"] = "{{question}}"
        # JSON is YAML, and needs no YAML library.
        (include / f"{name}.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return include


def _local_file(name: str, data_dir: Path) -> Path:
    folder, file = TASKS[name]
    candidates = [data_dir / file, data_dir / folder / file]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = " and ".join(str(candidate) for candidate in candidates)
    raise RetainFirstError(f"Task {name!r} needs a file of its questions; looked for {looked}.")


def _refuse_unknown(tasks: Sequence[str], known: Sequence[str], of_lm_eval: Sequence[str]) -> None:
    for name in tasks:
        if name not in known and name not in of_lm_eval:
            near = difflib.get_close_matches(name, [*known, *of_lm_eval], n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise RetainFirstError(f"Unknown task {name!r}. {hint}Known: {', '.join(known)}, and the tasks of lm-eval.")


@contextmanager
def _without_git(evaluator: Any) -> Iterator[None]:
    """Keep lm-eval from calling git, which prints an error outside a checkout."""
    asked = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = asked


@contextmanager
def _task_errors(tasks: Sequence[str], data_dir: str | Path | None) -> Iterator[None]:
    """Turn an unreachable hub, and tasks that lm-eval does not take together, into errors that say what to do."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (ConnectionError, DatasetsError, FileNotFoundError) as error:
        advice = "" if data_dir else " Give the folder of the local files as data_dir (--data-dir)."
        reason = str(error).splitlines()[0]
        raise RetainFirstError(f"The data of {', '.join(tasks)} cannot be read: {reason}{advice}") from error
    except ValueError as error:
        if not str(error).startswith(("Duplicate task", "Found")):
            raise
        reason = str(error).splitlines()[0]
        raise RetainFirstError(
            f"The tasks {', '.join(tasks)} overlap: {reason}. A group is measured with its subtasks; leave these out."
        ) from error
