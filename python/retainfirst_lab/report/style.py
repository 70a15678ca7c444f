"""The style of all figures: colours, one line style for each combiner, panels and legends (extra ``plot``)."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BLACK", "BLUE", "COMBINERS", "DARK_GREY", "GREEN", "GREY", "LIGHT_GREY", "ORANGE", "SKY", "VERMILION", "legend", "panels",
]  # fmt: skip

# Okabe and Ito's colours, which readers with every kind of colour vision can tell apart.
BLACK, DARK_GREY, GREY, LIGHT_GREY = "black", "0.35", "0.5", "0.7"
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"

COMBINERS: dict[str, dict[str, Any]] = {
    "sum": {"color": VERMILION, "linestyle": "-", "marker": "o", "linewidth": 3.0},
    "pcgrad": {"color": BLUE, "linestyle": "--", "marker": "s", "linewidth": 2.4},
    "sago": {"color": GREEN, "linestyle": "-.", "marker": "^", "linewidth": 1.8},
    "sago_keep_retain": {"color": PURPLE, "linestyle": ":", "marker": "D", "linewidth": 1.4},
    "blur": {"color": SKY, "linestyle": "--", "marker": "v", "linewidth": 1.4},
}
"""Line styles. They differ in dashes and markers too; the lines that are drawn later are thinner, so that equal ones all show."""

_GRID = {"color": "0.92", "linewidth": 0.6}


def panels(
    rows: int, columns: int, width: float, height: float, margin: float = 0.5, grid: bool = True, **subplots: Any
) -> tuple[Any, Any]:
    """Return a new figure and its axes, an array of shape ``[rows, columns]``.

    Args:
        rows: Panels from top to bottom.
        columns: Panels from left to right.
        width: Of a panel, in inches.
        height: Of a panel, in inches.
        margin: Added to the figure's height, for the legend.
        grid: Draw grid lines.
        **subplots: Options of ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows + margin), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        if grid:
            panel.grid(**_GRID)
    return figure, axes


def legend(figure: Any, axes: Any, columns: int) -> None:
    """Put one legend for all panels below them, with each label once.

    Args:
        figure: Of :func:`panels`.
        axes: Its panels.
        columns: At most so many labels side by side.
    """
    found = {
        label: handle for panel in axes.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if found:
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(found), columns), "frameon": False}
        figure.legend(found.values(), found.keys(), **place)
