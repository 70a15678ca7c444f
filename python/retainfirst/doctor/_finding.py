"""One result of an examination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "first_line"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: The group that it is shown in, such as ``"extras"``.
        name: What was looked at.
        status: ``"ok"``; ``"missing"``: optional and not there; ``"broken"``: there, or needed, and does not work.
        text: What was found.
        advice: What it is for and what to do; empty if there is nothing to do.
    """

    section: str
    name: str
    status: Literal["ok", "missing", "broken"]
    text: str
    advice: str = ""


def first_line(error: BaseException) -> str:
    """Return an error's kind and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
