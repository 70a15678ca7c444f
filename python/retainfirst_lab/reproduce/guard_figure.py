"""The figure of the part on the guard: retained accuracy against the steps to equal forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retainfirst_lab.report import style
from retainfirst_lab.reproduce.guard_design import GUARDS, OPTIMIZERS
from retainfirst_lab.reproduce.guard_tables import OPTIMIZER_NAMES
from retainfirst_lab.reproduce.table_parts import NAMES

__all__ = ["CAPTION", "guard_figure"]

CAPTION = (
    "Retain accuracy at equal forgetting against the steps to it, with and without the guard. Points: one learning rate each,"
    " means over the seeds that forgot enough. Bars: the range over seeds. The upper left corner is the aim. Dotted line: the"
    " steps at which arms are compared at equal steps. With SGD the guard changes none of SAGO's steps (T10), and one line hides"
    " the other."
)

MEASURES = {"covered": "covered", "held_out": "held out"}
LINES = {"off": "--", "enforce": "-"}


def guard_figure(results: Mapping[str, Any]) -> Any | None:
    """Draw the figure; covered above, held out below; return None if the run has no part on the guard."""
    if not results.get("guard"):
        return None
    cells = [one for one in results["guard"]["cells"] if one["role"] == "report" and one["reached"]]
    columns = [
        (objective, optimizer)
        for objective in dict.fromkeys(one["objective"] for one in cells)
        for optimizer in OPTIMIZERS
    ]
    if not columns:
        return None
    figure, axes = style.panels(len(MEASURES), len(columns), 3.5, 3.0, sharex="all", sharey="row")
    for row, (measure, title) in enumerate(MEASURES.items()):
        for column, (objective, optimizer) in enumerate(columns):
            panel = axes[row][column]
            for variant in dict.fromkeys(one["variant"] for one in cells):
                for guard in GUARDS:
                    arm = [one for one in cells if _arm(one) == (objective, optimizer, variant, guard)]
                    _draw(panel, arm, measure, variant, guard)
            panel.axvline(results["guard"]["steps"], color="0.6", linestyle=":", linewidth=1)
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:g}")
            panel.set_ylabel(f"retain accuracy, {title}" if column == 0 else "")
            if row == 0:
                panel.set_title(f"{NAMES[objective]}, {OPTIMIZER_NAMES[optimizer]}")
    for panel in axes[-1]:
        panel.set_xlabel("steps to the forget target")
    style.legend(figure, axes, 1 + len(columns))
    return figure


def _arm(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return one["objective"], one["optimizer"], one["variant"], one["guard"]


def _draw(panel: Any, cells: Sequence[Mapping[str, Any]], measure: str, variant: str, guard: str) -> None:
    """Draw an arm: for each rate the means of steps and accuracy, with the range of the accuracy."""
    points = []
    for rate in sorted({one["learning_rate"] for one in cells}):
        found = [one for one in cells if one["learning_rate"] == rate]
        values = [one["retain_accuracy"][measure] for one in found]
        steps, mean = np.mean([one["steps"] for one in found]), np.mean(values)
        points.append((steps, mean, mean - min(values), max(values) - mean))
    if points:
        at, means, below, above = zip(*points, strict=True)
        look = {**style.COMBINERS[variant], "linestyle": LINES[guard], "linewidth": 1.6, "markersize": 5}
        look["markerfacecolor"] = look["color"] if guard == "enforce" else "white"
        label = f"{NAMES[variant]}, guard {'on' if guard == 'enforce' else 'off'}"
        panel.errorbar(at, means, [below, above], label=label, capsize=2, elinewidth=0.8, **look)
