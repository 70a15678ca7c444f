"""Rows from local files: JSON lines, JSON arrays, tables, also compressed."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError, require

__all__ = ["FILE_SUFFIXES", "SOURCES_TEXT", "file_rows"]

SOURCES_TEXT = "a JSON-lines file, a JSON array, or a .csv, .tsv or .parquet table"

_COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_OTHER_KINDS = {".arrow", ".feather", ".zst", ".zip", ".tar", ".tgz", ".7z", ".xls", ".xlsx", ".ods", ".pkl", ".pt", ".bin",
                ".npy", ".npz", ".db", ".sqlite", ".yaml", ".yml", ".xml", ".orc", ".avro"}  # fmt: skip

FILE_SUFFIXES = (
    {".json", ".jsonl", ".ndjson", ".txt", ".parquet"} | _SEPARATORS.keys() | _COMPRESSED.keys() | _OTHER_KINDS
)
"""Suffixes that a hub name does not have."""


def file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Read a file that exists.

    Args:
        path: A file of one of the kinds of :data:`SOURCES_TEXT`; a text may be compressed.

    Yields:
        The place of a row, for error texts, and the row, which may be anything that the file holds.

    Raises:
        RetainFirstError: The file is of another kind, unreadable, damaged, not UTF-8, not JSON or no table.
        MissingDependency: A Parquet file is given and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHER_KINDS:
        raise RetainFirstError(
            f"{path}: {suffix} files are not read. Give {SOURCES_TEXT}; texts may be {_compressions()}."
        )
    if suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    data = _content(path)
    if suffix in _COMPRESSED:
        suffix = Path(path.stem).suffix.lower()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = data.count(b"\n", 0, error.start) + 1
        raise RetainFirstError(f"{path}, line {bad}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    if suffix in _SEPARATORS:
        yield from _table_rows(path, text, _SEPARATORS[suffix])
    else:
        yield from _json_rows(path, text)


def _content(path: Path) -> bytes:
    """Return the bytes of a file, decompressed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RetainFirstError(f"{path} cannot be read: {error.strerror or error}.") from error
    unpack = _COMPRESSED.get(path.suffix.lower())
    try:
        return unpack(data) if unpack else data
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise RetainFirstError(f"{path} cannot be decompressed: {error}.") from error


def _compressions() -> str:
    return ", ".join(_COMPRESSED)


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    if text.lstrip().startswith("["):
        for item, row in enumerate(_parse(text, path, first_line=1), start=1):
            yield f"{path}, item {item}", row
        return
    # Not splitlines(): it would also cut at U+2028 and the like, which may stand inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _parse(line, path, first_line=number)


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise RetainFirstError(
            f"{path}, line {line}, column {error.colno}: invalid JSON ({error.msg}). "
            "Expected one JSON object a line, or one array of objects."
        ) from error
    except (RecursionError, ValueError) as error:  # absurdly deep nesting, an integer of thousands of digits
        raise RetainFirstError(f"{path}, line {first_line}: JSON that cannot be read ({error}).") from error


def _table_rows(path: Path, text: str, separator: str) -> Iterator[tuple[str, Any]]:
    # The csv module refuses cells above a limit of its own, which is the same for the whole program.
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        lines = _lines(path, csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    finally:
        csv.field_size_limit(limit)
    if not lines:
        return
    where, columns = lines[0]
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise RetainFirstError(
            f"{where}: the column {twice[0]!r} stands there twice. Give each column a name of its own."
        )
    for where, cells in lines[1:]:
        if len(cells) > len(columns):
            raise RetainFirstError(
                f"{where}: {len(cells)} cells, but the table has {len(columns)} columns ({', '.join(columns)}). Put texts that"
                " hold the separator into double quotes."
            )
        yield where, {column: cell or None for column, cell in zip(columns, cells, strict=False)}


def _lines(path: Path, reader: Any) -> list[tuple[str, list[str]]]:
    """Return the place and the cells of each line of a table that is not empty."""
    lines, start = [], 1
    try:
        for cells in reader:
            if cells:
                lines.append((f"{path}, line {start}", cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise RetainFirstError(f"{path}, line {start}: not a table of values ({error}).") from error
    return lines


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    parquet = require("pyarrow.parquet", "hf")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError, NotImplementedError) as error:
        raise RetainFirstError(f"{path} cannot be read as Parquet: {error}") from error
    yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))
