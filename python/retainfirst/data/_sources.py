"""Rows from local files and from data sets of the Hugging Face hub, checked one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retainfirst.data._files import FILE_SUFFIXES, SOURCES_TEXT, file_rows
from retainfirst.errors import RetainFirstError, require

__all__ = ["Row", "read_rows", "row_form"]

_FORMS = {
    "text": ("text",),
    "completion": ("prompt", "completion"),
    "answer": ("question", "answer"),
    "messages": ("messages",),
}
_FORMS_TEXT = "text; prompt + completion; question + answer; messages"

# owner/name, then :config and :split; a split may be a slice, such as train[:100].
_HUB_NAME = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]*)(?::(?P<split>[^/\\]+))?)?")


class Row(dict[str, Any]):
    """A row that knows where it was read.

    Attributes:
        place: Its file and line, for error texts.
    """

    def __init__(self, row: Mapping[str, Any], place: str) -> None:
        super().__init__(row)
        self.place = place


def read_rows(source: str | Path) -> list[dict[str, Any]]:
    """Read all rows of a file or of a hub data set.

    Args:
        source: A JSON-lines file, a JSON file that holds one array, a ``.csv``, ``.tsv`` or ``.parquet`` table (empty
            cells count as absent), or a hub name ``OWNER/NAME[:CONFIG[:SPLIT]]`` such as ``locuslab/TOFU:forget10`` or
            ``locuslab/TOFU:forget10:train[:100]`` (the split is ``train`` if not given; an empty config is the default
            one). Text files may be compressed (``.gz``, ``.bz2``, ``.xz``). A local path that exists wins over a hub name.

    Returns:
        At least one row, each in one of the four forms; further keys are kept.

    Raises:
        RetainFirstError: The source is missing, a folder, of another kind, unreadable, not UTF-8, not JSON, no table or
            without rows, or a row has none of the forms or several, a value of the wrong type or an empty answer. The text
            gives file and line.
        MissingDependency: A hub name is given and datasets is not installed, or a Parquet file and pyarrow is not.
    """
    path = Path(source)
    if path.is_dir():
        raise RetainFirstError(f"{source} is a folder. Give {SOURCES_TEXT}, or a hub name.")
    hub = _HUB_NAME.fullmatch(str(source))
    if path.exists():
        numbered = file_rows(path)
    elif hub and path.suffix.lower() not in FILE_SUFFIXES:
        numbered = _hub_rows(str(source), hub["path"], hub["config"] or None, hub["split"] or "train")
    else:
        raise RetainFirstError(
            f"{source} does not exist. Give {SOURCES_TEXT}, or a hub name OWNER/NAME[:CONFIG[:SPLIT]]."
        )
    rows: list[dict[str, Any]] = []
    for where, row in numbered:
        row_form(row, where)
        rows.append(Row(row, where))
    if not rows:
        raise RetainFirstError(f"{source} has no rows. Accepted forms: {_FORMS_TEXT}.")
    return rows


def row_form(row: Any, where: str) -> str:
    """Check a row and name its form.

    Args:
        row: The row, or anything else that the source holds.
        where: The row's place, for the error text, such as ``"forget.jsonl, line 3"``.

    Returns:
        ``"text"``, ``"completion"``, ``"answer"`` or ``"messages"``.

    Raises:
        RetainFirstError: The row is not valid; see :func:`read_rows`.
    """
    if not isinstance(row, Mapping):
        raise RetainFirstError(f"{where}: expected an object, found {_kind(row)}. Accepted forms: {_FORMS_TEXT}.")
    # A key with null counts as absent: a table of rows in mixed forms has one for each key of the others.
    forms = [form for form, keys in _FORMS.items() if all(row.get(key) is not None for key in keys)]
    if len(forms) != 1:
        found = ", ".join(f"{key!r}{' (null)' if value is None else ''}" for key, value in row.items())
        problem = "the row has the keys of several forms" if forms else "the row has the keys of no form"
        raise RetainFirstError(f"{where}: {problem}; keys found: {found or 'none'}. Accepted forms: {_FORMS_TEXT}.")
    form = forms[0]
    if form == "messages":
        _check_messages(row["messages"], where)
    else:
        for key in _FORMS[form]:
            _check_string(row[key], repr(key), where)
        _check_not_blank(row[_FORMS[form][-1]], repr(_FORMS[form][-1]), where)
    return form


def _check_messages(messages: Any, where: str) -> None:
    if isinstance(messages, np.ndarray):  # of a data set that is formatted for numpy
        messages = list(messages)
    if not isinstance(messages, list) or not messages:
        raise RetainFirstError(f"{where}: 'messages' must be a list with messages, found {_kind(messages)}.")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise RetainFirstError(f"{where}: message {i + 1} must be an object with 'role' and 'content'.")
        for key in ("role", "content"):
            _check_string(message[key], f"{key!r} of message {i + 1}", where)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or answers[-1] == 0:
        raise RetainFirstError(f"{where}: 'messages' needs an assistant turn with a turn of another role before it.")
    _check_not_blank(messages[answers[-1]]["content"], "'content' of the last assistant turn", where)


def _check_string(value: Any, name: str, where: str) -> None:
    if not isinstance(value, str):
        raise RetainFirstError(f"{where}: {name} must be a string, found {_kind(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RetainFirstError(f"{where}: {name} holds half of a surrogate pair, which is no text.") from error


def _check_not_blank(value: str, name: str, where: str) -> None:
    if not value.strip():
        raise RetainFirstError(f"{where}: {name} is empty, so there is nothing to forget or retain. Remove the row.")


def _hub_rows(source: str, path: str, config: str | None, split: str) -> Iterator[tuple[str, Any]]:
    datasets = require("datasets", "hf")
    try:
        rows = datasets.load_dataset(path, config, split=split)
    except Exception as error:  # the library raises a dozen kinds, network and file errors among them
        raise RetainFirstError(
            f"{source} is no local file, and the hub data set {path!r} (config {config!r}, split {split!r}) "
            f"could not be loaded: {error}"
        ) from error
    yield from ((f"{source}, row {i}", row) for i, row in enumerate(rows, start=1))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    name = names.get(type(value), type(value).__name__)
    return f"an empty {name.split()[-1]}" if isinstance(value, (list, dict, str)) and not value else name
