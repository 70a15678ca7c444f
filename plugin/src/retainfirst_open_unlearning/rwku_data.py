"""Reads RWKU's passages and probes from the hub or from local files, and gives them to data sets of the framework.

The framework's handlers pass their arguments to ``datasets.load_dataset``, which cannot select subjects. This module selects the
rows and gives them to those handlers.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from retainfirst.errors import RetainFirstError, did_you_mean

__all__ = ["HUB", "PROBES", "Passages", "Probes", "instruction", "load_rows", "wants_cue"]

_logger = logging.getLogger(__name__)

HUB = "jinzhuoran/RWKU"
"""Name of the data on the Hugging Face hub (CC BY 4.0)."""

PROBES = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
"""Level 1 has cloze probes, level 2 questions, level 3 adversarial questions; ``neighbor`` asks about related subjects."""

_ON_HUB = {probe: (probe, "test") for probe in PROBES} | {"passage": ("train_original_passage", "train")}

_NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")

Row = dict[str, Any]


def load_rows(part: str, path: str = HUB, subjects: Any = None) -> list[Row]:
    """Read one part of RWKU.

    Args:
        part: ``"passage"`` or one of :data:`PROBES`; locally the name of any file, without ``.json``.
        path: The hub's name, or a local folder that has ``<part>.json`` in it or in one folder for each subject
            (``12_Genghis_Khan/forget_level1.json``), as RWKU's and SAGO's preparation scripts write them.
        subjects: None for all; or a name, one of RWKU's numbers (``12``, ``"1-50"``), or a list of these.

    Returns:
        The rows in the order of the files, with all columns.

    Raises:
        RetainFirstError: There are no rows, a file is not a list of objects, a column is missing, or a subject has no rows.
    """
    root = Path(path)
    if root.is_dir():
        rows, numbered = _local(root, part)
    elif root.exists():
        raise RetainFirstError(f"RWKU: {path} is a file; give the folder that it is in, or the hub's name {HUB}")
    else:
        rows, numbered = _from_hub(path, part), None
    chosen = _choose(rows, subjects, part, path, numbered)
    _check_columns(chosen, part, path)
    return chosen


def instruction(row: Row, part: str) -> str:
    """Return the instruction of RWKU's evaluation for a probe, without the chat template and the cue ``Answer:``.

    Source: ``LLaMA-Factory/src/llmtuner/eval/eval_forget.py`` and ``eval_neighbor.py`` of jinzhuoran/RWKU.
    """
    if part.endswith("level1"):
        return f"Please complete the blank in the following question.\nQuestion: {row['query']}\n"
    kind = row["type"] if part.endswith("level3") else None
    # In-context probes contain several questions and answers; the other probes of level 3 are one question.
    question = str(row["query"]) if kind == "incontext learning" else f"Question: {row['query']}"
    end = "" if kind == "affirmative suffix" else "\n"
    return f"Please briefly answer the following question.\n{question}{end}"


def wants_cue(row: Row, part: str) -> bool:
    """Return whether ``Answer:`` follows. It does not after a probe that ends with the beginning of an answer."""
    return not (part.endswith("level3") and row["type"] == "affirmative suffix")


class _Rows:
    """Goes before a handler of the framework, and gives it the rows in a file, which all its versions read."""

    def __init__(self, *, part: str, path: str = HUB, subjects: Any = None, **kwargs: Any) -> None:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "rows.json"
            file.write_text(json.dumps(self._rows(part, path, subjects)), encoding="utf-8")
            where = {"data_files": str(file), "cache_dir": folder, "keep_in_memory": True}
            super().__init__(hf_args={"path": "json", "split": "train", **where}, **kwargs)  # type: ignore[call-arg]

    def _rows(self, part: str, path: str, subjects: Any) -> list[Row]:
        raise NotImplementedError


class Passages(_Rows):
    """Goes before the framework's ``PretrainingDataset``."""

    def _rows(self, part: str, path: str, subjects: Any) -> list[Row]:
        return [{"text": row["text"]} for row in load_rows(part, path, subjects)]


class Probes(_Rows):
    """Goes before the framework's ``QADataset``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(question_key="query", answer_key="answer", **kwargs)

    def _rows(self, part: str, path: str, subjects: Any) -> list[Row]:
        rows = load_rows(part, path, subjects)
        asked = [instruction(row, part) + ("Answer:" if wants_cue(row, part) else "") for row in rows]
        return [{"query": query, "answer": row["answer"]} for query, row in zip(asked, rows, strict=True)]


def _local(root: Path, part: str) -> tuple[list[Row], dict[int, str]]:
    """Return the rows, and the subjects by the numbers of their folders."""
    if (root / f"{part}.json").is_file():
        return _read(root / f"{part}.json"), {}
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and any(folder.glob("*.json")))
    if not any((folder / f"{part}.json").is_file() for folder in folders):
        found = sorted({file.name for folder in (root, *folders) for file in folder.glob("*.json")})
        has = f"only {', '.join(found)}" if found else "no .json file at all"
        raise RetainFirstError(f"RWKU: there is no {part}.json in {root} or in its folders, {has}")
    rows, numbered = [], {}
    for folder in sorted(folders, key=_number):
        own = _read(folder / f"{part}.json")
        rows += own
        if own and _number(folder) and "subject" in own[0]:
            numbered[_number(folder)] = str(own[0]["subject"])
    return rows, numbered


def _number(folder: Path) -> int:
    """Return 12 of ``12_Genghis_Khan``; 0 if there is no number."""
    number, _, _ = folder.name.partition("_")
    return int(number) if number.isdecimal() else 0


def _read(file: Path) -> list[Row]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise RetainFirstError(f"RWKU: there is no {file}, though its folder is there; add the file") from error
    except (OSError, ValueError) as error:
        raise RetainFirstError(f"RWKU: {file} cannot be read as JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RetainFirstError(f"RWKU: {file} should hold a list of objects, not {type(rows).__name__}")
    return rows


def _from_hub(path: str, part: str) -> list[Row]:
    if part not in _ON_HUB:
        raise RetainFirstError(f"RWKU: the hub has no part {part!r}. {did_you_mean(part, _ON_HUB)}")
    name, split = _ON_HUB[part]
    return _hub_rows(path, name, split)


def _hub_rows(path: str, name: str, split: str) -> list[Row]:
    from datasets import load_dataset

    try:
        return list(load_dataset(path, name, split=split))
    except Exception as error:
        raise RetainFirstError(
            f"RWKU: {path!r} is not a folder here, and loading {name!r} of it from the hub failed: "
            f"{type(error).__name__}: {error}. Give a local folder, or the hub's name {HUB}"
        ) from error


def _choose(rows: list[Row], subjects: Any, part: str, path: str, numbered: dict[int, str] | None) -> list[Row]:
    """Return the rows of the chosen subjects. ``numbered`` is None for the hub, where the order of its list gives the numbers."""
    if subjects is None:
        return rows
    wanted = [subjects] if isinstance(subjects, str | int) else list(subjects)
    if any("subject" not in row for row in rows):
        raise RetainFirstError(f"RWKU: subjects are chosen, but {part} of {path} has rows without a column 'subject'")
    names: list[str] = []
    for one in map(str, wanted):
        numbers = _NUMBERS.fullmatch(one.strip())
        if numbers is None:
            names.append(one)
            continue
        if numbered is None:
            targets = [row["target"] for row in _hub_rows(path, "forget_target", "train")]
            numbered = dict(enumerate(map(str, targets), 1))
        names += _by_number(one, int(numbers[1]), int(numbers[2] or numbers[1]), part, path, numbered)
    known = dict.fromkeys(str(row["subject"]) for row in rows)
    for name in names:
        if name not in known:
            raise RetainFirstError(f"RWKU: {part} of {path} has nothing on {name!r}. {did_you_mean(name, _few(known))}")
    return [row for row in rows if str(row["subject"]) in set(names)]


def _by_number(asked: str, first: int, last: int, part: str, path: str, numbered: dict[int, str]) -> list[str]:
    if not numbered:
        raise RetainFirstError(
            f"RWKU: subjects {asked}: the subjects in {path} have no numbers (its folders are not named like 12_Genghis_Khan); "
            "give names, or null for all that are there"
        )
    names = [name for number, name in numbered.items() if first <= number <= last]
    if not names:
        has = ", ".join(map(str, sorted(numbered)))
        raise RetainFirstError(f"RWKU: subjects {asked}: {part} of {path} has no subject of these numbers, only {has}")
    if len(names) <= last - first:
        _logger.warning("RWKU: subjects %s: %s has only %s of them", asked, path, ", ".join(names))
    return names


def _few(names: Iterable[str]) -> list[str]:
    """Shorten a list for an error: RWKU has 200 subjects."""
    names = list(names)
    return names if len(names) <= 20 else [*names[:20], f"and {len(names) - 20} more"]


def _check_columns(rows: list[Row], part: str, path: str) -> None:
    needed = ["text"]
    if part in PROBES:
        needed = ["subject", "query", "answer", *(["type"] if part.endswith("level3") else [])]
    if not rows:
        raise RetainFirstError(f"RWKU: {part} of {path} has no rows")
    for number, row in enumerate(rows):
        missing = [column for column in needed if not isinstance(row.get(column), str)]
        if missing:
            raise RetainFirstError(f"RWKU: row {number} of {part} of {path} has no text {missing}, only {sorted(row)}")
