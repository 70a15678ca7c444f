"""The output folder: one file for each finished cell, so that an interrupted run can resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst.files import write_json
from retainfirst_lab.reproduce.design import Cell

__all__ = ["Store", "rounded"]

_NAME = "run.json"


class Store:
    """Finished cells on disk.

    Args:
        folder: The output folder; made if absent.
        identity: The settings that two runs must share to use one folder.

    Raises:
        RetainFirstError: The folder is a file, belongs to another run, holds other files, or cannot be written to.
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
            write_json(file, identity)
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
        """Return the file of the cell's results, whether or not it exists."""
        return self._cells / f"{cell.id}.json"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """Return a finished cell's results; None if the file is absent or damaged (the cell is then run again)."""
        try:
            stored = json.loads(self.path(cell).read_text(encoding="utf-8"))
            return dict(stored["results"]) if stored["cell"] == cell.as_dict() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, cell: Cell, results: Mapping[str, Any]) -> None:
        """Store a finished cell's results."""
        write_json(self.path(cell), rounded({"cell": cell.as_dict(), "results": results}), indent=None)


def rounded(value: Any) -> Any:
    """Return data with every float rounded to six significant digits, which keeps the files small."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
