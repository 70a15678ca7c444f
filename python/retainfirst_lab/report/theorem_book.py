"""The theorem book as Markdown. ``python -m retainfirst_lab.report.theorem_book docs/theory.md`` writes it into the page."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from retainfirst.theory import STATEMENTS, Statement
from retainfirst_lab.report.page import rewrite

__all__ = ["as_markdown"]


def as_markdown() -> str:
    """Return all statements with formula, status, source, combiners and the solver's claims."""
    return "\n".join(_section(one) for one in STATEMENTS)


def _section(one: Statement) -> str:
    lines = [
        f"### {one.id}: {one.title}",
        "",
        textwrap.fill(_text(one.words), 140),
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
        lines += [f"    - {_text(claim.words)}" for claim in one.claims]
    if one.runs:
        lines.append(f"- Judged on steps of: {', '.join(dict.fromkeys(run.family for run in one.runs))}.")
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


def _text(words: str) -> str:
    """Return words in which no ``<u, r>`` can be read as a tag."""
    return words.replace("<", "&lt;")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    for page in sys.argv[1:]:
        rewrite(Path(page), "statements", as_markdown())
