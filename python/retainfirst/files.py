"""Result files and folders that appear whole or not at all.

Everything is written to a draft beside its final place and renamed at the end. If the block raises, Ctrl-C included, the
draft is removed. A link is followed: its target is replaced and the link stays.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError

__all__ = [
    "finite",
    "json_text",
    "refuse_existing",
    "refuse_unwritable",
    "whole_file",
    "whole_folder",
    "write_json",
    "write_whole",
]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a draft to write, which replaces ``path`` when the block ends well.

    Args:
        path: The final name, in an existing folder.

    Yields:
        The draft's path, in the same folder. It does not exist yet.

    Raises:
        RetainFirstError: The system refuses to write (no space, no permission); the text has its reason.
    """
    target = _resolved(path)
    draft = _draft_of(target)
    try:
        yield draft
        draft.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to a file, replacing it if it exists.

    Args:
        path: The file, in an existing folder.
        content: All of it.

    Raises:
        RetainFirstError: The system refuses to write; the text has its reason.
    """
    with whole_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    """Write JSON to a file, replacing it if it exists; the text is that of :func:`json_text`.

    Args:
        path: The file, in an existing folder.
        data: Mappings, lists, tuples, texts, numbers, truth values and None.
        indent: Spaces per level; None: one line.

    Raises:
        RetainFirstError: The system refuses to write; the text has its reason.
    """
    write_whole(path, json_text(data, indent) + "\n")


def json_text(data: Any, indent: int | None = 2) -> str:
    """Return data as JSON, with null for numbers that are not finite (JSON has no NaN).

    Args:
        data: Mappings, lists, tuples, texts, numbers, truth values and None.
        indent: Spaces per level; None: one line.

    Returns:
        The text, without a line break at its end.
    """
    return json.dumps(finite(data), indent=indent, allow_nan=False)


def finite(data: Any) -> Any:
    """Return data with None in place of the numbers that are not finite, and lists in place of tuples."""
    if isinstance(data, Mapping):
        return {key: finite(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [finite(item) for item in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a draft folder to fill, which takes the name ``folder`` when the block ends well.

    Args:
        folder: The final name; absent or an empty folder.

    Yields:
        The draft, an empty folder beside the final one.

    Raises:
        RetainFirstError: ``folder`` is not free (see :func:`refuse_existing`), or was taken by another process during the
            block, or the system refuses to make or to rename the folder. The block's own errors pass unchanged.
    """
    refuse_existing(folder)
    target = _resolved(folder)
    draft = _draft_of(target)
    try:
        with _refused(folder):
            draft.mkdir(parents=True)
        yield draft
        with _refused(folder):
            if target.is_dir():
                target.rmdir()
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse_existing(folder: Path) -> None:
    """Check that a result folder can take the name ``folder``: nothing is there, or an empty folder.

    Args:
        folder: The result's name.

    Raises:
        RetainFirstError: It is a file, or a folder that holds something.
    """
    with _refused(folder):
        if folder.is_dir():
            if any(folder.iterdir()):
                raise RetainFirstError(f"Output folder {folder} is not empty. Give a new or an empty folder.")
        elif folder.exists():
            raise RetainFirstError(f"Output {folder} is a file. Give a new or an empty folder.")


def refuse_unwritable(path: Path) -> None:
    """Check, before long work, that a result file can be written to ``path``.

    Args:
        path: The result's name.

    Raises:
        RetainFirstError: It is no regular file, or its folder does not exist or is read-only.
    """
    target = _resolved(path)
    if (target.exists() and not target.is_file()) or not target.parent.is_dir():
        raise RetainFirstError(f"Output {path} cannot be written: give a file in an existing folder.")
    if not os.access(target.parent, os.W_OK):
        raise RetainFirstError(f"Output {path} cannot be written: its folder is read-only for this user.")


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RetainFirstError:
    return RetainFirstError(f"Output {path} cannot be written: {error.strerror or error}.")


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _draft_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
