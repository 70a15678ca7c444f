"""SmolLM2-135M, taught some of TOFU's fictitious authors, as a bench."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retainfirst.data import encode_rows, pad_token_id
from retainfirst.errors import RetainFirstError, require
from retainfirst.models import load_model, load_tokenizer
from retainfirst.reproduce.store import write_whole
from retainfirst.tasks import smollm2
from retainfirst.tasks.implant import implant_rows

__all__ = ["SmolBench", "SmolSizes"]

MAX_LENGTH = 160
CHOICES = 4

_FORGET, _RETAIN = "retainfirst_tofu_forget10", "retainfirst_tofu_retain"
_AUTHORS, _WORLD, _ARC = "retainfirst_tofu_real_authors", "retainfirst_tofu_world_facts", "retainfirst_arc_easy"
_FILES = {
    "forget10_perturbed": ("locuslab/TOFU", "forget10_perturbed", "train"),
    "retain_perturbed": ("locuslab/TOFU", "retain_perturbed", "train"),
    "real_authors_perturbed": ("locuslab/TOFU", "real_authors_perturbed", "train"),
    "world_facts_perturbed": ("locuslab/TOFU", "world_facts_perturbed", "train"),
    "test": ("allenai/ai2_arc", "ARC-Easy", "test"),
}


@dataclass(frozen=True)
class SmolSizes:
    """How much is taught and asked.

    Attributes:
        forget_rows: TOFU rows to forget; twice as many are retained, and as many held out.
        epochs: Passes over all of them when they are taught.
        questions: Questions of each measure at each point of a path.
        more_questions: Questions of each measure that only the end model is asked.
    """

    forget_rows: int = 40
    epochs: int = 5
    questions: int = 20
    more_questions: int = 60


class SmolBench:
    """The taught model, in a folder of the run.

    Args:
        folder: Where models and questions are kept.
        sizes: How much is taught and asked.
        relearn_rows: Forget rows that the relearning is trained on.
        model: Folder or hub name of the model to teach; None: SmolLM2 from its package.
        data_dir: Folder with the local files of TOFU and ARC; None: from the hub.
    """

    def __init__(
        self, folder: Path, sizes: SmolSizes, relearn_rows: int, model: str | None, data_dir: Path | None
    ) -> None:
        self._folder, self._sizes = folder, sizes
        n = sizes.forget_rows
        forget = _shortest(_rows("forget10_perturbed", data_dir), n)
        retain = _shortest(_rows("retain_perturbed", data_dir), 3 * n)
        held_out = retain[::3]
        covered = [row for index, row in enumerate(retain) if index % 3]
        self._write_questions(forget, covered, held_out, relearn_rows, data_dir)
        self._taught = self._teach([*forget, *covered, *held_out], model)
        self._tokenizer = load_tokenizer(str(self._taught))
        self.pad_token_id = pad_token_id(self._tokenizer)
        self.forget = self._encode(forget, "forget")
        self.retain = self._encode(covered, "retain")
        self.relearn = self._encode(forget[:relearn_rows], "relearn")

    def _write_questions(
        self,
        forget: Sequence[Any],
        covered: Sequence[Any],
        held_out: Sequence[Any],
        relearn_rows: int,
        data_dir: Path | None,
    ) -> None:
        """Write the files that the multiple-choice tasks read: one folder for each pair of measures."""
        few, many = self._sizes.questions, self._sizes.more_questions
        world = _rows("world_facts_perturbed", data_dir)
        asked = forget[relearn_rows : relearn_rows + few]
        paraphrased = [{**row, "question": row["paraphrased_question"]} for row in asked]
        sets: dict[str, dict[str, Sequence[Any]]] = {
            "path": {
                "forget10_perturbed": asked,
                "retain_perturbed": covered[:few],
                "world_facts_perturbed": world[:few],
            },
            "held_out": {"retain_perturbed": held_out[:few]},
            "end": {
                "forget10_perturbed": paraphrased,
                "world_facts_perturbed": world[few : few + many],
                "real_authors_perturbed": _rows("real_authors_perturbed", data_dir)[:many],
                "test": _rows("test", data_dir)[:many],
            },
        }
        for name, files in sets.items():
            folder = self._folder / "questions" / name
            folder.mkdir(parents=True, exist_ok=True)
            for file, rows in files.items():
                write_whole(folder / f"{file}.jsonl", "".join(json.dumps(_fewer_choices(row)) + "\n" for row in rows))

    def _teach(self, rows: Sequence[Mapping[str, str]], model: str | None) -> Path:
        taught = self._folder / "taught"
        if taught.is_dir():
            return taught
        if model is None:
            base = self._folder / "SmolLM2"
            model = str(base if base.is_dir() else smollm2.prepare(base))
        data = self._folder / "taught.jsonl"
        pairs = [{"question": row["question"], "answer": row["answer"]} for row in rows]
        write_whole(data, "".join(json.dumps(pair) + "\n" for pair in pairs))
        checkpoint = self._folder / "teaching.pt"
        implant_rows(
            model, [data], taught, epochs=self._sizes.epochs, max_length=MAX_LENGTH, chat_template="never",
            checkpoint=checkpoint,
        )  # fmt: skip
        return taught

    def _encode(self, rows: Sequence[Mapping[str, str]], name: str) -> Any:
        pairs = [{"question": row["question"], "answer": row["answer"]} for row in rows]
        return encode_rows(pairs, self._tokenizer, MAX_LENGTH, chat_template="never", name=name)

    def model(self) -> Any:
        """Return the taught model."""
        return load_model(str(self._taught)).eval()

    def accuracies(self, model: Any) -> dict[str, float]:
        """Return accuracies over four answers, by lm-eval."""
        path = self._score(model, "path", {_FORGET: "forget", _RETAIN: "covered", _WORLD: "unrelated"})
        return path | self._score(model, "held_out", {_RETAIN: "held_out"})

    def remaining(self, model: Any) -> float:
        """Return the accuracy on forget facts; those that are asked about are not shown in the relearning."""
        return self._score(model, "path", {_FORGET: "forget"})["forget"]

    def judge(self, model: Any) -> dict[str, float]:
        """Return what is only asked of the end model: paraphrased questions, more world facts, real authors and ARC-Easy."""
        tasks = {_FORGET: "forget_paraphrased", _WORLD: "world_facts", _AUTHORS: "real_authors", _ARC: "arc_easy"}
        return self._score(model, "end", tasks)

    def judged_target(self) -> dict[str, float]:
        """Return the same of the taught model, kept beside it."""
        file = self._folder / "taught.json"
        if not file.exists():
            write_whole(file, self.judge(self.model()))
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def _score(self, model: Any, questions: str, tasks: Mapping[str, str]) -> dict[str, float]:
        from retainfirst.tasks.multiple_choice import score

        data = self._folder / "questions" / questions
        with redirect_stderr(io.StringIO()):  # its progress bars
            found = score(model, self._tokenizer, list(tasks), data_dir=data, batch_size=16)
        return {tasks[one.task]: one.value for one in found if one.metric == "acc_norm"}


def _rows(name: str, data_dir: Path | None) -> list[dict[str, Any]]:
    """Read a data set, from a local file or from the hub."""
    if data_dir is not None:
        found = [
            file for file in (data_dir, data_dir / "tofu", data_dir / "arc_easy") if (file / f"{name}.jsonl").is_file()
        ]
        if not found:
            raise RetainFirstError(f"Data folder {data_dir} has no {name}.jsonl, nor has tofu or arc_easy in it.")
        return [json.loads(line) for line in (found[0] / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    repository, configuration, split = _FILES[name]
    datasets = require("datasets", "hf")
    try:
        return [dict(row) for row in datasets.load_dataset(repository, configuration, split=split)]
    except Exception as error:  # the library raises a dozen kinds
        raise RetainFirstError(
            f"{repository} ({configuration}) cannot be loaded: {str(error).splitlines()[0]} Give the folder of its files as"
            " --data-dir."
        ) from error


def _shortest(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the rows that cost least: those whose question and longest answer are shortest, in their order."""

    def length(row: Mapping[str, Any]) -> int:
        return len(row["question"]) + max(len(answer) for answer in (row["answer"], *row["perturbed_answer"]))

    kept = sorted(range(len(rows)), key=lambda index: (length(rows[index]), index))[:count]
    return [rows[index] for index in sorted(kept)]


def _fewer_choices(row: Mapping[str, Any]) -> dict[str, Any]:
    """Leave TOFU's right answer and the first three wrong ones, so that chance is one quarter everywhere."""
    if "perturbed_answer" not in row:
        return dict(row)
    return {**row, "perturbed_answer": list(row["perturbed_answer"])[: CHOICES - 1]}
