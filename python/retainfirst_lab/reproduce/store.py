"""The output folder: one file a finished cell, so that a run can be interrupted and go on at any moment."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst_lab.reproduce.design import Cell

__all__ = ["Store", "write_whole"]

_NAME = "run.json"


class Store:
    """Finished cells on disk.

    Args:
        folder: The output folder; made if absent.
        identity: What two runs must share to use one folder.

    Raises:
        RetainFirstError: The folder is a file, is of another run, holds other things, or cannot be written to.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self._cells = folder, folder / "cells"
        try:
            self._claim(json.loads(json.dumps(identity)))
            self._cells.mkdir(exist_ok=True)
            for leftover in (*folder.glob(".*.part"), *self._cells.glob(".*.part")):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise RetainFirstError(f"Output folder {folder} cannot be written to: {error}") from error

    def _claim(self, identity: Mapping[str, Any]) -> None:
        file = self.folder / _NAME
        if self.folder.exists() and not self.folder.is_dir():
            raise RetainFirstError(f"Output {self.folder} is a file. Give a new or an empty folder.")
        if not file.exists():
            if self.folder.is_dir() and any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
                raise RetainFirstError(
                    f"Output folder {self.folder} holds other files and no run of `reproduce`. Give a new or an empty folder."
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, identity)
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RetainFirstError(f"{file} is damaged ({error}). Give another folder, or remove this one.") from error
        odd = sorted(key for key in identity.keys() | found.keys() if identity.get(key) != found.get(key))
        if odd:
            differences = "; ".join(f"{key} was {found.get(key)}, is {identity.get(key)}" for key in odd)
            raise RetainFirstError(
                f"Output folder {self.folder} is of another run: {differences}. Give another folder, or remove this one."
            )

    def path(self, cell: Cell) -> Path:
        """Return where the cell's results are, or shall be."""
        return self._cells / f"{cell.id}.json"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """Return a finished cell's results, or None if it is not there or damaged (it is then run again)."""
        try:
            stored = json.loads(self.path(cell).read_text(encoding="utf-8"))
            return dict(stored["results"]) if stored["cell"] == cell.as_dict() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, cell: Cell, results: Mapping[str, Any]) -> None:
        """Keep a finished cell's results."""
        write_whole(self.path(cell), {"cell": cell.as_dict(), "results": results}, indent=None)


def write_whole(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write text, or JSON, so that the file is whole or not there; numbers that are not finite become null.

    Raises:
        RetainFirstError: The system refuses (no space, say); its reason is in the text.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    text = content if isinstance(content, str) else json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n"
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise RetainFirstError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        draft.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
