"""The runs of the study of SmolLM2: teach it TOFU's authors once, unlearn some of them, measure each row, attack."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from retainfirst.data import EncodedSet, encode_rows, pad_token_id
from retainfirst.evaluation import (
    exact_memorization,
    generate_answers,
    probability,
    quantized,
    relearned,
    rouge_l_recall,
    score_answers,
    split_rows,
)
from retainfirst.files import write_json, write_whole
from retainfirst.models import load_model, load_tokenizer
from retainfirst.step import TwoTaskStep
from retainfirst_lab.reproduce.attack_design import QUANTISERS
from retainfirst_lab.reproduce.guard_design import GuardCell
from retainfirst_lab.reproduce.losses import make_losses
from retainfirst_lab.reproduce.path import Batches, train_step
from retainfirst_lab.reproduce.smollm2_rows import Row, read_rows, shortest
from retainfirst_lab.tasks.implant import implant_rows

__all__ = ["SETS", "AuthorSizes", "Authors", "Change", "identity", "run"]

SETS = ("forget", "covered", "held_out")
"""Rows of authors to forget, of authors in the retain batches, and of authors in no batch."""

AUTHORS_ROWS = 20
"""The rows of an author stand together in TOFU's files."""

OPTIONS: Mapping[str, Mapping[str, float]] = {"ga": {}, "npo": {"beta": 0.1}, "simnpo": {"beta": 0.02, "delta": 0.1}}
"""Options of the objectives; SimNPO's beta is the paper's on WMDP Bio."""

MAX_LENGTH = 160

Scores = dict[str, list[float]]


@dataclass(frozen=True)
class AuthorSizes:
    """The sizes that all runs share.

    Attributes:
        authors: Authors to teach, half of TOFU's forget10 and half of its retain set.
        rows: Rows of each, the shortest.
        forget: Authors to forget.
        covered: Authors in the retain batches; the others are held out.
        epochs: Of the teaching.
        batch_size: Forget rows, and retain rows, in a step.
        max_steps: The last step.
        equal_steps: The step at which all runs are measured, whatever they have forgotten.
        relearn_steps: Of the relearning, on half of the forget rows.
    """

    authors: int = 16
    rows: int = 4
    forget: int = 3
    covered: int = 6
    epochs: int = 5
    batch_size: int = 4
    max_steps: int = 40
    equal_steps: int = 6
    relearn_steps: int = 8


class Authors:
    """The taught model and its rows.

    Args:
        folder: For the model and the rows; what is there is used again.
        model: Folder or hub name of the model to teach.
        data_dir: Folder with TOFU's files; None: the hub.
        sizes: Of the run.
        device: Of the models that unlearn.
    """

    def __init__(
        self, folder: Path, model: str, data_dir: Path | None, sizes: AuthorSizes, device: str = "cpu"
    ) -> None:
        self._folder, self._untaught, self.sizes, self.device = folder, model, sizes, device
        folder.mkdir(parents=True, exist_ok=True)
        self.authors = self._chosen(data_dir)
        self._taught = self._teach()
        self.tokenizer = load_tokenizer(str(self._taught))
        self.pad = pad_token_id(self.tokenizer)
        self.untaught = self._scores_before_teaching()

    def _chosen(self, data_dir: Path | None) -> list[list[Row]]:
        file = self._folder / "authors.json"
        if not file.exists():
            found = []
            for name in ("forget10_perturbed", "retain_perturbed"):
                rows = read_rows(name, data_dir)
                blocks = [rows[start : start + AUTHORS_ROWS] for start in range(0, len(rows), AUTHORS_ROWS)]
                short = [shortest(block)[: self.sizes.rows] for block in blocks]
                short.sort(key=lambda block: sum(len(row["question"]) + len(row["answer"]) for row in block))
                found += short[: self.sizes.authors // 2]
            write_json(file, [[{key: row[key] for key in ("question", "answer")} for row in block] for block in found])
        return [list(block) for block in json.loads(file.read_text(encoding="utf-8"))]

    def _teach(self) -> Path:
        taught, data = self._folder / "taught", self._folder / "taught.jsonl"
        if not taught.is_dir():
            write_whole(data, "".join(json.dumps(row) + "\n" for block in self.authors for row in block))
            implant_rows(
                self._untaught, [data], taught, epochs=self.sizes.epochs, max_length=MAX_LENGTH, chat_template="never",
                checkpoint=self._folder / "teaching.pt", progress=True,
            )  # fmt: skip
        return taught

    def _scores_before_teaching(self) -> list[list[float]]:
        """Return for each author the probabilities of its rows to the model that was taught nothing."""
        file = self._folder / "untaught.json"
        if not file.exists():
            model = load_model(self._untaught).eval()
            scores = [probability(score_answers(model, self.encode(block), self.pad)) for block in self.authors]
            write_json(file, scores)
        return [list(block) for block in json.loads(file.read_text(encoding="utf-8"))]

    def encode(self, rows: Sequence[Row]) -> EncodedSet:
        """Tokenise rows."""
        return encode_rows(rows, self.tokenizer, MAX_LENGTH, chat_template="never", name="TOFU")

    def drawn(self, seed: int) -> dict[str, list[int]]:
        """Return the authors of each set, by number."""
        order = list(range(len(self.authors)))
        random.Random(seed).shuffle(order)
        forget, covered = self.sizes.forget, self.sizes.forget + self.sizes.covered
        return {
            "forget": sorted(order[:forget]),
            "covered": sorted(order[forget:covered]),
            "held_out": sorted(order[covered:]),
        }

    def model(self) -> Any:
        """Return a new copy of the taught model."""
        return load_model(str(self._taught)).eval().to(self.device)

    def batch(self, rows: Batches, number: int) -> dict[str, torch.Tensor]:
        """Return the batch of a step, on the device."""
        return {name: value.to(self.device) for name, value in rows[number].items()}


class Change:
    """What a mitigation changes in a run; this one changes nothing."""

    def prepare(self, model: Any, seed: int) -> None:
        """Change the taught model before the first step."""

    def look(self, optimizer: torch.optim.Optimizer, left: float) -> None:
        """Change the optimiser after a step; ``left`` is the share of the way to the target that is left, from 1 to 0."""

    def finish(self, model: Any) -> None:
        """Change the model before it is attacked."""


def run(cell: GuardCell, bed: Authors, change: Change | None = None) -> dict[str, Any]:
    """Unlearn in one cell until the forget rows are as probable as before the teaching, and at least ``equal_steps`` steps.

    Args:
        cell: Its settings; the seed draws the authors and the batches.
        bed: The taught model and its authors.
        change: A mitigation; None: none.

    Returns:
        ``authors`` by set; ``target``; ``path`` (forget probability, losses and the guard's geometry of each step); ``states``:
        the scores of each row of each set ``before``, at ``equal_steps``, ``above`` the target (the last state) and ``below`` it
        (the first), the last with ``rouge``; and ``attacks`` on the state below, with scores of the forget and covered rows.
        A run that misses the target has no states around it and no attacks.
    """
    sizes, drawn = bed.sizes, bed.drawn(cell.seed)
    sets = {name: bed.encode([row for author in drawn[name] for row in bed.authors[author]]) for name in SETS}
    target = fmean(value for author in drawn["forget"] for value in bed.untaught[author])
    model = bed.model()
    losses = make_losses(cell.objective, model, sets["forget"], bed.pad, cell.seed, OPTIONS[cell.objective])
    forget, retain = (Batches(sets[name], sizes.batch_size, bed.pad, cell.seed) for name in ("forget", "covered"))
    change = change or Change()
    change.prepare(model, cell.seed)
    step = TwoTaskStep(model, cell.combiner())
    optimizer = cell.make_optimizer(model.parameters())
    guard = cell.watch(step, optimizer)
    states: dict[str, Any] = {"before": _scores(model, sets, bed)}
    path: list[dict[str, float]] = [{"step": 0, "forget": fmean(states["before"]["forget"])}]
    attacks: dict[str, Any] = {}
    number = 0
    while number < sizes.max_steps and ("below" not in states or number < sizes.equal_steps):
        previous = {name: one.detach().clone() for name, one in model.named_parameters()}
        measured = train_step(
            model, step, optimizer, losses, (bed.batch(forget, number), bed.batch(retain, number)), guard
        )
        number += 1
        left = fmean(probability(score_answers(model, sets["forget"], bed.pad)))
        path.append({"step": number, "forget": left, **measured})
        change.look(optimizer, (left - target) / (path[0]["forget"] - target))
        if left <= target and "below" not in states:
            states["below"] = _scores(model, sets, bed) | {"rouge": _said(model, sets, bed)}
            states["above"] = _with(model, previous, sets, bed)
            change.finish(model)
            attacks = _attacked(model, sets, bed)
        if number == sizes.equal_steps:
            states["equal_steps"] = _scores(model, sets, bed)
    guard.remove()
    return {"authors": drawn, "target": target, "path": path, "states": states, "attacks": attacks}


def _scores(model: Any, sets: Mapping[str, EncodedSet], bed: Authors) -> Scores:
    return {name: probability(score_answers(model, rows, bed.pad)) for name, rows in sets.items()}


def _said(model: Any, sets: Mapping[str, EncodedSet], bed: Authors) -> Scores:
    return {
        name: rouge_l_recall(generate_answers(model, bed.tokenizer, rows, max_new_tokens=40, batch_size=24))
        for name, rows in sets.items()
    }


def _with(model: Any, weights: Mapping[str, torch.Tensor], sets: Mapping[str, EncodedSet], bed: Authors) -> Scores:
    """Return the scores with other weights; the model has its own again afterwards."""
    own = {name: one.detach().clone() for name, one in model.named_parameters()}
    try:
        _load(model, weights)
        return _scores(model, sets, bed)
    finally:
        _load(model, own)


def _load(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def _attacked(model: Any, sets: Mapping[str, EncodedSet], bed: Authors) -> dict[str, Any]:
    found: dict[str, Any] = {}
    looked_at = {name: sets[name] for name in ("forget", "covered")}
    for name, setting in QUANTISERS.items():
        with quantized(model, *setting):
            found[name] = {part: _both(model, rows, bed) for part, rows in looked_at.items()}
    shown, others = split_rows(len(sets["forget"]))
    rows, unseen = ([sets["forget"][i] for i in numbers] for numbers in (shown, others))
    after = _both(model, unseen, bed)
    with relearned(model, rows, bed.pad, steps=bed.sizes.relearn_steps, learning_rate=2e-5):
        found["relearning"] = {"rows": others, "after": after, "forget": _both(model, unseen, bed)}
    return found


def _both(model: Any, rows: Any, bed: Authors) -> Scores:
    scores = score_answers(model, rows, bed.pad)
    return {"probability": probability(scores), "exact_memorization": exact_memorization(scores)}


def identity(model: str, sizes: AuthorSizes) -> dict[str, Any]:
    """Return what two calls must share to use one folder."""
    return {
        "study": "smollm2",
        "model": model,
        "sizes": asdict(sizes),
        "options": {k: dict(v) for k, v in OPTIONS.items()},
    }
