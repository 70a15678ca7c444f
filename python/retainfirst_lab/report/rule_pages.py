"""The generated parts of the pages about the rules: options, promises from the theorem book, and pictures.

    python -m retainfirst_lab.report.rule_pages docs

rewrites ``docs/reference/rules/*.md`` between their markers. The verdicts on optimisers are read from the table in
``docs/theory.md``, so run :mod:`retainfirst_lab.studies.optimisers` first if it has changed. ``--figures`` draws the pictures
in ``docs/figures`` too (extra ``plot``).
"""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path

from retainfirst import moments
from retainfirst.combiners import Combiner, ElementwiseCombiner, available_combiners, combiner_options, make_combiner
from retainfirst.theory import STATEMENTS, Statement, statement
from retainfirst_lab.report import markdown
from retainfirst_lab.report.page import rewrite

__all__ = ["RULES", "facts", "promises", "write"]

RULES = (*available_combiners(), "torchjd")
"""The rules that have a page; that of ``torchjd`` is about all aggregators of TorchJD."""

_ALWAYS = ("T1", "T2", "T10")
"""The statements that each page judges, promised or not."""

_THEORY = "../../theory.md"


def write(docs: Path) -> None:
    """Rewrite the generated parts of all pages.

    Args:
        docs: The folder with ``theory.md`` and ``reference/rules``.
    """
    theory = (docs / "theory.md").read_text(encoding="utf-8")
    for rule in RULES:
        page = docs / "reference" / "rules" / f"{rule}.md"
        rewrite(page, "facts", facts(rule))
        rewrite(page, "promises", promises(rule, theory))


def facts(rule: str) -> str:
    """Return the rule's class, options and passes as Markdown."""
    made, options = example(rule), ", ".join(_option(one) for one in combiner_options(rule).values())
    kind = type(made).__name__
    rows = [["class", f"[`{kind}`](../api/index.md#retainfirst.{kind})"], ["options", options]]
    if isinstance(made, ElementwiseCombiner):
        rows.append(["looks at", "each coordinate by itself, so it has no scope"])
        rows.append(["passes over the gradients", "one, which also measures the geometry"])
        rows.append(["traffic on shards", "none"])
    else:
        table = 8 * len(moments.COLUMNS)
        rows.append(["looks at", "the dot products of the two gradients in each group of its [scope](../scopes.md)"])
        rows.append(["passes over the gradients", "two: the dot products, then the update"])
        rows.append(["traffic on shards", f"one collective call a step, {table} bytes a group and process"])
    return markdown.lines(["", f"`{rule}`"], rows)


def example(rule: str, **options: float) -> Combiner:
    """Return a rule as a combiner, of TorchJD's aggregators UPGrad.

    Args:
        rule: One of :data:`RULES`.
        **options: Of the combiner.
    """
    return make_combiner("torchjd:UPGrad" if rule == "torchjd" else rule, **options)


def promises(rule: str, theory: str) -> str:
    """Return what the theorem book says about a rule as Markdown.

    Args:
        rule: One of :data:`RULES`.
        theory: The text of ``docs/theory.md``, with the table of optimisers.
    """
    rows = [
        [f"[{one.id}]({_THEORY}#{anchor(f'{one.id}: {one.title}')})", one.title, verdict]
        for one in STATEMENTS
        if (verdict := _verdict(rule, one))
    ]
    parts = [markdown.lines(["statement", "", f"`{rule}`"], rows), "### After the optimiser", _optimisers(rule, theory)]
    return "\n\n".join(parts)


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _verdict(rule: str, one: Statement) -> str:
    # What all of this library's rules keep is kept by others too: it does not depend on the rule.
    if rule in one.promised_by or set(available_combiners()) <= set(one.promised_by):
        rounds = one.id == "T2" and rule not in statement("X2").promised_by
        return "kept; rounding can break it (X2)" if rounds else "kept"
    if rule in one.exact_only:
        return "kept in exact arithmetic; rounding can break it"
    if one.status == "refuted" and rule == one.combiner:
        return "**broken**, by a counterexample"
    return "not promised" if one.id in _ALWAYS else ""


def _optimisers(rule: str, theory: str) -> str:
    """Return the columns of a rule in the table of optimisers, or where there is no such column a sentence."""
    block = theory.partition("<!-- begin optimisers -->")[2].partition("<!-- end optimisers -->")[0]
    columns, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("|")
    )
    mine = [i for i, name in enumerate(columns) if name.strip("`") == rule or name.startswith(f"{rule}, ")]
    if not mine:
        return f"The [runs with twelve optimisers]({_THEORY}#after-the-optimiser) did not include this rule."
    intro = (
        "Does the step work against retention? The share is that of the steps with `<d, r> > 0` in runs on the built-in facts;"
        f" [the theorem book]({_THEORY}#after-the-optimiser) explains the words and has the command."
    )
    shown = [[line[i] for i in (0, *mine)] for line in (columns, *rows)]
    return f"{intro}\n\n{markdown.lines(shown[0], shown[1:])}"


def _option(one: inspect.Parameter) -> str:
    return f"`{one.name}`" if one.default is one.empty else f"`{one.name}={one.default!r}`"


def main() -> None:
    """Rewrite the pages, and draw the pictures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("docs", type=Path, help="the folder of the documentation")
    parser.add_argument("--figures", action="store_true", help="draw the pictures too")
    arguments = parser.parse_args()
    write(arguments.docs)
    if arguments.figures:
        from retainfirst_lab.report import rule_figures

        rule_figures.draw(arguments.docs / "figures" / "rules", {rule: example(rule) for rule in RULES})


if __name__ == "__main__":
    main()
