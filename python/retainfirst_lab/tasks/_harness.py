"""One call of lm-eval, in this process and on a model in memory: its task files, its data, its errors."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError, require
from retainfirst_lab.tasks._facts_words import FACTS_CONFIG_KEY
from retainfirst_lab.tasks.facts import FactsConfig, write_files

__all__ = ["FACTS_PREFIX", "TASKS", "YAML_FOLDER", "facts_config", "run"]

TASKS: dict[str, tuple[str, str]] = {
    "retainfirst_facts_forget": ("", "forget.jsonl"),
    "retainfirst_facts_retain": ("", "retain.jsonl"),
    "retainfirst_facts_held_out": ("", "held_out.jsonl"),
    "retainfirst_facts_unrelated": ("", "unrelated.jsonl"),
    "retainfirst_facts_forget_paraphrased": ("", "forget_paraphrased.jsonl"),
    "retainfirst_tofu_forget10": ("tofu", "forget10_perturbed.jsonl"),
    "retainfirst_tofu_retain": ("tofu", "retain_perturbed.jsonl"),
    "retainfirst_tofu_real_authors": ("tofu", "real_authors_perturbed.jsonl"),
    "retainfirst_tofu_world_facts": ("tofu", "world_facts_perturbed.jsonl"),
    "retainfirst_arc_easy": ("arc_easy", "test.jsonl"),
}
"""Our tasks, each with the folder and the name that its local file has."""

YAML_FOLDER = Path(__file__).with_name("lm_eval")
FACTS_PREFIX = "retainfirst_facts_"


def run(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    chat_template: bool = False,
) -> dict[str, Any]:
    """Return what lm-eval found; see :func:`retainfirst_lab.tasks.multiple_choice.score` for the arguments and errors."""
    require("lm_eval", "eval")
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise RetainFirstError(f"{name} must be at least 1, found {value}.")
    if chat_template and not tokenizer.chat_template:
        raise RetainFirstError("The tokenizer has no chat template: evaluate without it.")
    ours = [name for name in tasks if name in TASKS]
    # lm-eval's index of its own tasks takes many seconds to read: only where one may be meant.
    _refuse_unknown([name for name in tasks if name.startswith("retainfirst_")], [])
    with tempfile.TemporaryDirectory(prefix="retainfirst-evaluate-") as scratch:
        include = _write_tasks(ours, Path(scratch), model, data_dir, chat_template)
        manager = TaskManager(include_path=str(include), include_defaults=len(ours) < len(tasks))
        _refuse_unknown(tasks, manager.all_tasks)
        device = str(next(model.parameters()).device)
        with _hub_errors(tasks, data_dir), _without_git(evaluator):
            found: dict[str, Any] = evaluator.simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=device),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                apply_chat_template=chat_template,
                random_seed=None,  # the caller's global random state is not ours to set
                numpy_random_seed=None,
                torch_random_seed=None,
            )
    return found


def facts_config(model: Any) -> FactsConfig | None:
    """Return the facts that a model was taught, None if it is no facts model."""
    stored = getattr(model.config, FACTS_CONFIG_KEY, None)
    return FactsConfig(**stored) if isinstance(stored, Mapping) else None


def _write_tasks(
    names: Sequence[str], scratch: Path, model: Any, data_dir: str | Path | None, chat_template: bool
) -> Path:
    """Write, for each task, a YAML file that includes ours and adds where the data are."""
    config = facts_config(model)
    if config is not None:
        write_files(config, scratch)
    include = scratch / "tasks"
    include.mkdir()
    for name in names:
        settings: dict[str, Any] = {"include": str(YAML_FOLDER / f"{name}.yaml"), "task": name}
        file: Path | None = None
        if name.startswith(FACTS_PREFIX):
            if config is None:
                raise RetainFirstError(
                    f"Task {name!r} asks the facts of the built-in facts model; this is another model."
                )
            file = scratch / TASKS[name][1]
            if not file.exists():
                raise RetainFirstError(f"Task {name!r}: this facts model has no such facts.")
            settings["custom_dataset"] = None
        elif data_dir is not None:
            file = _local_file(name, Path(data_dir))
        if file is not None:
            settings |= {"dataset_path": "json", "dataset_name": None, "test_split": "train"}
            settings["dataset_kwargs"] = {
                "data_files": {"train": str(file.resolve())},
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


def _refuse_unknown(tasks: Sequence[str], of_lm_eval: Sequence[str]) -> None:
    for name in tasks:
        if name not in TASKS and name not in of_lm_eval:
            near = difflib.get_close_matches(name, [*TASKS, *of_lm_eval], n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise RetainFirstError(f"Unknown task {name!r}. {hint}Known: {', '.join(TASKS)}, and the tasks of lm-eval.")


@contextmanager
def _without_git(evaluator: Any) -> Iterator[None]:
    """Keep lm-eval from asking git for a commit that we do not keep: outside a checkout git complains on the screen."""
    asked = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = asked


@contextmanager
def _hub_errors(tasks: Sequence[str], data_dir: str | Path | None) -> Iterator[None]:
    """Turn an unreachable hub into an error that says what to do."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (ConnectionError, DatasetsError, FileNotFoundError) as error:
        advice = "" if data_dir else " Give the folder of the local files as data_dir (--data-dir)."
        reason = str(error).splitlines()[0]
        raise RetainFirstError(f"The data of {', '.join(tasks)} cannot be read: {reason}{advice}") from error
