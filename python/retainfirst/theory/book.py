"""The statements as Markdown. ``python -m retainfirst.theory.book docs/theory.md`` writes them into the page."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from retainfirst.errors import RetainFirstError
from retainfirst.theory.statements import STATEMENTS, Statement

__all__ = ["as_markdown", "insert"]

_START, _STOP = "<!-- statements: made by retainfirst.theory.book -->\n", "<!-- end of statements -->\n"


def as_markdown() -> str:
    """Return all statements with formula, status, source, combiners and the solver's claims."""
    return "\n".join(_section(one) for one in STATEMENTS)


def insert(page: str) -> str:
    """Return a page with the statements between the two comments that mark their place.

    Raises:
        RetainFirstError: The page does not have both comments.
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
    names = _listed(one.promised_by) or "no combiner"
    exact = f"; in exact arithmetic only: {_listed(one.exact_only)}" if one.exact_only else ""
    broken = f"; broken by: `{one.combiner}`" if one.status == "refuted" else ""
    return f"Kept by: {names}{exact}{broken}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        file = Path(name)
        file.write_text(insert(file.read_text(encoding="utf-8")), encoding="utf-8")
