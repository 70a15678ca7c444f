"""Result files: whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError

__all__ = ["refuse_unwritable", "write_json"]


def refuse_unwritable(output: Path) -> None:
    """Check, before long work, that a file can be put there.

    Raises:
        RetainFirstError: It is no regular file, or lies in a folder that does not exist or may not be written to.
    """
    if (output.exists() and not output.is_file()) or not output.parent.is_dir():
        raise RetainFirstError(f"Output {output} cannot be written: give a file in an existing folder.")
    if not os.access(output.parent, os.W_OK):
        raise RetainFirstError(f"Output {output} cannot be written: its folder is read-only for this user.")


def write_json(output: Path, report: dict[str, Any]) -> None:
    """Write a report; a file of that name is replaced at once, and a link to one stays a link.

    Raises:
        RetainFirstError: The system refuses; its reason is in the text.
    """
    output = output.resolve()
    draft = output.with_name(f".{output.name}.part")
    try:
        draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        draft.replace(output)
    except OSError as error:
        raise RetainFirstError(f"Output {output} could not be written: {error}") from error
