"""The figure of the part on attacks: the share of the lost forget accuracy that each attack brings back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retainfirst_lab.report import style
from retainfirst_lab.reproduce.attack_design import ATTACKS
from retainfirst_lab.reproduce.table_parts import GUARD_NAMES, NAMES

__all__ = ["CAPTION", "attack_figure"]

CAPTION = (
    "Share of the lost forget accuracy that each attack brings back, by objective and learning rate, with and without the guard."
    " Points: means over the seeds that forgot enough. Bars: the standard deviation over seeds."
)


def attack_figure(results: Mapping[str, Any]) -> Any | None:
    """Draw the figure; return None if the run has no part on attacks, or no run of it forgot enough."""
    arms = [row for row in (results.get("attacks") or {"arms": []})["arms"] if row["reached"]]
    columns = list(dict.fromkeys((row["objective"], row["learning_rate"]) for row in arms))
    if not columns:
        return None
    figure, axes = style.panels(1, len(columns), 4.0, 3.0, sharey="row")
    for panel, (objective, rate) in zip(axes[0], columns, strict=True):
        drawn = [row for row in arms if (row["objective"], row["learning_rate"]) == (objective, rate)]
        for place, row in enumerate(drawn):
            _draw(panel, row, (place - (len(drawn) - 1) / 2) * 0.11)
        panel.axhline(0, color="0.6", linestyle=":", linewidth=1)
        panel.set_title(f"{NAMES[objective]}, rate {rate:g}")
        panel.set_xticks(range(len(ATTACKS)), [attack.replace(", ", ",\n") for attack in ATTACKS], fontsize=8)
    axes[0][0].set_ylabel("recovered share")
    style.legend(figure, axes, 1 + len(columns))
    return figure


def _draw(panel: Any, row: Mapping[str, Any], shift: float) -> None:
    """Draw an arm beside the others: a point with a bar for each attack."""
    numbers = {at: row["numbers"][attack] for at, attack in enumerate(ATTACKS) if attack in row["numbers"]}
    look = {name: style.COMBINERS[row["variant"]][name] for name in ("color", "marker")}
    look["markerfacecolor"] = look["color"] if row["guard"] == "enforce" else "white"
    panel.errorbar(
        [at + shift for at in numbers],
        [found["mean"] for found in numbers.values()],
        [found["sd"] or 0.0 for found in numbers.values()],
        label=f"{NAMES[row['variant']]}, guard {GUARD_NAMES[row['guard']]}",
        linestyle="none", capsize=2, elinewidth=0.8, markersize=5, **look,
    )  # fmt: skip
