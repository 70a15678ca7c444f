"""The test bed of SmolLM2-135M, which is taught some of TOFU's fictitious authors."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from retainfirst.data import encode_rows, pad_token_id
from retainfirst.files import write_json, write_whole
from retainfirst.models import load_model, load_tokenizer
from retainfirst_lab.reproduce.smollm2_rows import Row, fewer_choices, read_rows, shortest, unknown
from retainfirst_lab.reproduce.store import rounded
from retainfirst_lab.tasks import smollm2
from retainfirst_lab.tasks.implant import implant_rows

__all__ = ["SmolSizes", "SmolTestbed"]

MAX_LENGTH = 160

_FORGET, _RETAIN = "retainfirst_tofu_forget10", "retainfirst_tofu_retain"
_AUTHORS, _WORLD, _ARC = "retainfirst_tofu_real_authors", "retainfirst_tofu_world_facts", "retainfirst_arc_easy"


@dataclass(frozen=True)
class SmolSizes:
    """Numbers of rows and questions.

    Attributes:
        forget_rows: TOFU rows to forget; twice as many are covered, and as many held out.
        epochs: Epochs of the teaching.
        questions: Questions of each measure at each point of a path.
        more_questions: Questions of each measure that only the end model is asked.
    """

    forget_rows: int = 32
    epochs: int = 5
    questions: int = 20
    more_questions: int = 60


class SmolTestbed:
    """The taught model. It is made once and kept in a folder of the run.

    Args:
        folder: For models and questions.
        sizes: Numbers of rows and questions.
        relearn_rows: Forget rows on which the relearning trains.
        model: Folder or hub name of the model to teach; None: SmolLM2 from its package.
        data_dir: Folder with the local files of TOFU and ARC; None: the hub.
    """

    def __init__(
        self, folder: Path, sizes: SmolSizes, relearn_rows: int, model: str | None, data_dir: Path | None
    ) -> None:
        self._folder, self._sizes = folder, sizes
        self._base = model
        rows = self._chosen(data_dir)
        self._write_questions(rows, relearn_rows, data_dir)
        self._taught = self._teach([row for part in rows.values() for row in part])
        self._tokenizer = load_tokenizer(str(self._taught))
        self.pad_token_id = pad_token_id(self._tokenizer)
        self.forget = self._encode(rows["forget"], "forget")
        self.retain = self._encode(rows["covered"], "retain")
        self.relearn = self._encode(rows["forget"][:relearn_rows], "relearn")

    def _chosen(self, data_dir: Path | None) -> dict[str, list[Row]]:
        """Return the rows to teach, by set. The untaught model is asked once, and the choice is stored."""
        file, count = self._folder / "chosen.json", self._sizes.forget_rows
        if not file.exists():
            base = self._untaught()
            model, tokenizer = load_model(base).eval(), load_tokenizer(base)
            forget, retain = (
                unknown(shortest(read_rows(name, data_dir)), number, name, partial(self._right, model, tokenizer, task))
                for name, task, number in (
                    ("forget10_perturbed", _FORGET, count),
                    ("retain_perturbed", _RETAIN, 3 * count),
                )
            )
            covered = [row for index, row in enumerate(retain) if index % 3]
            write_json(file, {"forget": forget, "covered": covered, "held_out": retain[::3]})
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def _untaught(self) -> str:
        if self._base is None:
            base = self._folder / "SmolLM2"
            self._base = str(base if base.is_dir() else smollm2.prepare(base))
        return self._base

    def _right(self, model: Any, tokenizer: Any, task: str, rows: Sequence[Row]) -> list[bool]:
        from retainfirst_lab.tasks.multiple_choice import TASKS, answered_right

        with tempfile.TemporaryDirectory() as scratch, redirect_stderr(io.StringIO()):
            _write_rows(Path(scratch) / TASKS[task][1], map(fewer_choices, rows))
            return answered_right(model, tokenizer, task, data_dir=scratch, batch_size=16)

    def _write_questions(self, rows: Mapping[str, Sequence[Row]], relearn_rows: int, data_dir: Path | None) -> None:
        """Write the files of the multiple-choice tasks: one folder for each set of questions."""
        few, many = self._sizes.questions, self._sizes.more_questions
        world = read_rows("world_facts_perturbed", data_dir)
        asked = rows["forget"][relearn_rows : relearn_rows + few]
        paraphrased = [{**row, "question": row["paraphrased_question"]} for row in asked]
        sets: dict[str, dict[str, Sequence[Any]]] = {
            "path": {
                "forget10_perturbed": asked,
                "retain_perturbed": rows["covered"][:few],
                "world_facts_perturbed": world[:few],
            },
            "held_out": {"retain_perturbed": rows["held_out"][:few]},
            "end": {
                "forget10_perturbed": paraphrased,
                "world_facts_perturbed": world[few : few + many],
                "real_authors_perturbed": read_rows("real_authors_perturbed", data_dir)[:many],
                "test": read_rows("test", data_dir)[:many],
            },
        }
        for name, files in sets.items():
            folder = self._folder / "questions" / name
            folder.mkdir(parents=True, exist_ok=True)
            for file, questions in files.items():
                _write_rows(folder / f"{file}.jsonl", map(fewer_choices, questions))

    def _teach(self, rows: Sequence[Row]) -> Path:
        taught, data = self._folder / "taught", self._folder / "taught.jsonl"
        if not taught.is_dir():
            _write_rows(data, map(_pair, rows))
            implant_rows(
                self._untaught(), [data], taught, epochs=self._sizes.epochs, max_length=MAX_LENGTH, chat_template="never",
                checkpoint=self._folder / "teaching.pt",
            )  # fmt: skip
        return taught

    def _encode(self, rows: Sequence[Row], name: str) -> Any:
        return encode_rows([_pair(row) for row in rows], self._tokenizer, MAX_LENGTH, chat_template="never", name=name)

    def model(self) -> Any:
        """Return a new copy of the taught model."""
        return load_model(str(self._taught)).eval()

    def accuracies(self, model: Any) -> dict[str, float]:
        """Return accuracies over four choices, computed by lm-eval."""
        path = self._score(model, "path", {_FORGET: "forget", _RETAIN: "covered", _WORLD: "unrelated"})
        return path | self._score(model, "held_out", {_RETAIN: "held_out"})

    def remaining(self, model: Any) -> float:
        """Return the accuracy on the forget facts; the questions are about rows that are not in ``relearn``."""
        return self._score(model, "path", {_FORGET: "forget"})["forget"]

    def judge(self, model: Any) -> dict[str, float]:
        """Return the accuracies of end models only: on paraphrases, more world facts, real authors and ARC-Easy."""
        tasks = {_FORGET: "forget_paraphrased", _WORLD: "world_facts", _AUTHORS: "real_authors", _ARC: "arc_easy"}
        return self._score(model, "end", tasks)

    def judged_target(self) -> dict[str, float]:
        """Return :meth:`judge` of the taught model; it is stored beside the model."""
        file = self._folder / "taught.json"
        if not file.exists():
            write_json(file, rounded(self.judge(self.model())))
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def _score(self, model: Any, questions: str, tasks: Mapping[str, str]) -> dict[str, float]:
        from retainfirst_lab.tasks.multiple_choice import score

        data = self._folder / "questions" / questions
        with redirect_stderr(io.StringIO()):  # its progress bars
            found = score(model, self._tokenizer, list(tasks), data_dir=data, batch_size=16)
        return {tasks[one.task]: one.value for one in found if one.metric == "acc_norm"}


def _pair(row: Row) -> Row:
    return {"question": row["question"], "answer": row["answer"]}


def _write_rows(file: Path, rows: Iterable[Row]) -> None:
    write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
