"""Result files: whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError

__all__ = ["refuse_unwritable", "write_json"]


def refuse_unwritable(output: Path) -> None:
    """Check, before long work, that a file can be put there.

    Raises:
        RetainFirstError: It is a folder, or lies in one that does not exist.
    """
    if output.is_dir() or not output.parent.is_dir():
        raise RetainFirstError(f"Output {output} cannot be written: give a file in an existing folder.")


def write_json(output: Path, report: dict[str, Any]) -> None:
    """Write a report; a file of that name is replaced at once."""
    draft = output.with_name(f".{output.name}.part")
    draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draft.replace(output)
