"""The invented facts, drawn from a configuration."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from retainfirst.errors import RetainFirstError
from retainfirst.files import write_whole
from retainfirst_lab.tasks import _facts_words as words

__all__ = ["FactRow", "FactsConfig", "facts_data", "facts_parts", "taught_rows", "write_files"]

CHOICES = 4
"""Choices of each fact; chance is 0.25."""


class FactRow(TypedDict):
    """One fact as a row of a forget or retain file, with its choices.

    Attributes:
        prompt: The person and the relation.
        completion: A space and the object.
        choices: Four objects of the relation, without the space.
        answer: The index of the right choice.
    """

    prompt: str
    completion: str
    choices: list[str]
    answer: int


@dataclass(frozen=True)
class FactsConfig:
    """The settings that determine the facts and the model.

    Attributes:
        seed: Draws the persons, the objects, the initial weights and the order of training.
        forget_people: Persons to forget, each with one fact for each of the four relations.
        retain_people: Persons to retain, with as many facts.
        hidden_size: Width of the model, a multiple of 8 (it has four attention heads).
        layers: Transformer layers.
        held_out_people: Further persons that the model knows and the retain file leaves out.
        unrelated_people: Further persons whose names, relations and objects come from a second set of words.
        paraphrased: Teach every fact in a second form too: ``home-of Ada Ray Moss -> Oslo``.
        disentangled: Take the persons to forget from the second set of words, so that they share none with the retained ones.
    """

    seed: int = 0
    forget_people: int = 24
    retain_people: int = 72
    hidden_size: int = 128
    layers: int = 2
    held_out_people: int = 0
    unrelated_people: int = 0
    paraphrased: bool = False
    disentangled: bool = False

    @property
    def extended(self) -> bool:
        """Whether the facts need the second set of words or the paraphrases."""
        return self.unrelated_people > 0 or self.paraphrased or self.disentangled

    def __post_init__(self) -> None:
        """Check the sizes."""
        people = self.forget_people + self.retain_people + max(0, self.held_out_people)
        room = len(words.FIRST_NAMES) * len(words.MIDDLE_NAMES) * len(words.LAST_NAMES)
        if min(self.forget_people, self.retain_people) < 1 or people > room:
            raise RetainFirstError(
                f"FactsConfig needs at least one person of each kind and at most {room} together, found "
                f"forget_people={self.forget_people}, retain_people={self.retain_people}, "
                f"held_out_people={self.held_out_people}."
            )
        if self.held_out_people < 0 or not 0 <= self.unrelated_people <= room:
            raise RetainFirstError(
                f"FactsConfig needs held_out_people and unrelated_people from 0 to {room}, found "
                f"held_out_people={self.held_out_people}, unrelated_people={self.unrelated_people}."
            )
        if self.disentangled and self.unrelated_people:
            raise RetainFirstError(
                f"With disentangled every retained fact is unrelated: unrelated_people must be 0, found {self.unrelated_people}."
            )
        if self.hidden_size < 8 or self.hidden_size % 8 or self.layers < 1:
            raise RetainFirstError(
                f"FactsConfig needs hidden_size a multiple of 8 and layers >= 1, found "
                f"hidden_size={self.hidden_size}, layers={self.layers}."
            )


def facts_data(config: FactsConfig | None = None) -> tuple[list[FactRow], list[FactRow]]:
    """Draw the facts to forget and to retain; they are a function of the configuration.

    Args:
        config: Seed and sizes; the default has 96 facts to forget and 288 to retain.

    Returns:
        The rows to forget and the rows to retain.
    """
    parts = facts_parts(config)
    return parts["forget"], parts["retain"]


def facts_parts(config: FactsConfig | None = None) -> dict[str, list[FactRow]]:
    """Draw all facts; they are a function of the configuration.

    Args:
        config: Seed and sizes; ``None`` is the default.

    Returns:
        Rows by part: ``"forget"`` and ``"retain"``, and if the configuration has them ``"held_out"``, ``"unrelated"`` and
        ``"forget_paraphrased"`` (the forget facts with the second form of prompt).
    """
    config = config or FactsConfig()
    draw = random.Random(config.seed)
    first = {"retain": config.retain_people, "held_out": config.held_out_people}
    second = {"unrelated": config.unrelated_people}
    if config.disentangled:
        second = {"forget": config.forget_people}
    else:
        first = {"forget": config.forget_people, **first}
    parts = _draw(first, (words.FIRST_NAMES, words.MIDDLE_NAMES, words.LAST_NAMES), words.OBJECTS, draw)
    others = (words.OTHER_FIRST_NAMES, words.OTHER_MIDDLE_NAMES, words.OTHER_LAST_NAMES)
    parts |= _draw(second, others, words.OTHER_OBJECTS, draw)
    if config.paraphrased:
        parts["forget_paraphrased"] = [_paraphrase(row) for row in parts["forget"]]
    return {name: rows for name, rows in parts.items() if rows}


def taught_rows(config: FactsConfig) -> list[FactRow]:
    """Return every row that the model is taught, in a fixed order."""
    parts = facts_parts(config)
    rows = [row for name in ("forget", "retain", "held_out", "unrelated") for row in parts.get(name, [])]
    return rows + [_paraphrase(row) for row in rows] if config.paraphrased else rows


def _draw(
    sizes: dict[str, int], names: tuple[list[str], ...], objects: dict[str, list[str]], draw: random.Random
) -> dict[str, list[FactRow]]:
    people = draw.sample([" ".join(name) for name in itertools.product(*names)], sum(sizes.values()))
    rows = [_fact(person, relation, objects[relation], draw) for person in people for relation in objects]
    parts, start = {}, 0
    for part, size in sizes.items():
        parts[part] = rows[start : start + size * len(objects)]
        start += size * len(objects)
    return parts


def _fact(person: str, relation: str, objects: list[str], draw: random.Random) -> FactRow:
    choices = draw.sample(objects, CHOICES)
    answer = draw.randrange(CHOICES)
    return FactRow(prompt=f"{person} {relation}", completion=f" {choices[answer]}", choices=choices, answer=answer)


def _paraphrase(row: FactRow) -> FactRow:
    person, _, relation = row["prompt"].rpartition(" ")
    return FactRow(
        prompt=f"{words.PARAPHRASES[relation]} {person}",
        completion=row["completion"],
        choices=row["choices"],
        answer=row["answer"],
    )


def write_files(config: FactsConfig | None, folder: str | Path) -> tuple[Path, Path]:
    """Write ``forget.jsonl`` and ``retain.jsonl``, as ``retainfirst unlearn --forget --retain`` reads them.

    Every other part of :func:`facts_parts` gets a file of its name.

    Args:
        config: Seed and sizes; ``None`` is the default.
        folder: The folder; it is made if absent. Existing files are replaced.

    Returns:
        The paths of ``forget.jsonl`` and ``retain.jsonl``.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, rows in facts_parts(config).items():
        write_whole(target / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return target / "forget.jsonl", target / "retain.jsonl"
