"""The statements as Markdown, for ``docs/theory.md``: ``python -m retainfirst.theory.book docs/theory.md``."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from retainfirst.errors import RetainFirstError
from retainfirst.theory.statements import STATEMENTS, Statement

__all__ = ["as_markdown", "insert"]

_START, _STOP = "<!-- statements: made by retainfirst.theory.book -->\n", "<!-- end of statements -->\n"


def as_markdown() -> str:
    """Return every statement with its formula, source, status, and what the solver proves of it."""
    return "\n".join(_section(one) for one in STATEMENTS)


def insert(page: str) -> str:
    """Return a page with the statements put between the two comments that mark their place.

    Raises:
        RetainFirstError: The page has no such place.
    """
    before, found, rest = page.partition(_START)
    _, closed, after = rest.partition(_STOP)
    if not (found and closed):
        raise RetainFirstError(f"The page has no place for the statements: put in the lines {_START!r} and {_STOP!r}")
    return f"{before}{_START}\n{as_markdown()}\n{_STOP}{after}"


def _section(one: Statement) -> str:
    lines = [
        f"### {one.id}: {one.title}",
        "",
        textwrap.fill(one.words, 140),
        "",
        f"`{one.formula}`",
        "",
        f"- Status: **{one.status}**. Stated by: {one.source}.",
        f"- {_who(one)}",
    ]
    if one.claims:
        if one.status == "refuted":
            lines.append("- The solver refutes, with a counterexample that is replayed as vectors:")
        else:
            lines.append("- The solver proves, for real numbers and so in every dimension:")
        lines += [f"  - {claim.words}" for claim in one.claims]
    if one.id == "T1":
        lines.append(
            "- The solver also proves it with every operation rounded, in float16, bfloat16, float32 and float64."
        )
    return "\n".join([*lines, ""])


def _who(one: Statement) -> str:
    names = ", ".join(f"`{name}`" for name in one.promised_by) or "no combiner"
    broken = f"; broken by: `{one.rule}`" if one.status == "refuted" else ""
    return f"Kept by: {names}{broken}."


if __name__ == "__main__":
    for name in sys.argv[1:]:
        file = Path(name)
        file.write_text(insert(file.read_text(encoding="utf-8")), encoding="utf-8")
