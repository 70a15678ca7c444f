"""The report's figures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from retainfirst.errors import require
from retainfirst_lab.reproduce.matched import frontier
from retainfirst_lab.reproduce.table_parts import NAMES

__all__ = ["cosine_figure", "figures", "frontier_figure", "loss_figure", "sweep_figure"]

# Okabe and Ito's colours, told apart with every kind of colour vision; lines differ in dashes too, and what is drawn later is
# thinner, so that lines that lie on each other can all be seen.
STYLES: dict[str, dict[str, Any]] = {
    "sum": {"color": "#D55E00", "linestyle": "-", "marker": "o", "linewidth": 3.0},
    "pcgrad": {"color": "#0072B2", "linestyle": "--", "marker": "s", "linewidth": 2.4},
    "sago": {"color": "#009E73", "linestyle": "-.", "marker": "^", "linewidth": 1.8},
    "sago_keep_retain": {"color": "#CC79A7", "linestyle": ":", "marker": "D", "linewidth": 1.4},
}
OBJECTIVES = ("ga", "npo", "simnpo")

Results = Mapping[str, Any]
Figure = Any


def figures(results: Results) -> dict[str, str]:
    """Return all figures that the run has data for: caption to SVG text."""
    require("matplotlib", "plot")
    if not _objectives(results):
        return {}
    made = {
        "Accuracy on retained facts against accuracy on the facts to forget, along each path: the upper right corner is the aim."
        " Lines are means over seeds of the best retain accuracy reached at or below each forget accuracy, bands the range over"
        " seeds. The dotted line is the forget accuracy at which results are compared.": frontier_figure(results),
        "Cosine of the update and the retain gradient. Above: all rules on the same two gradients, at the states of the naive"
        " path. Below: along each rule's own path. Means over seeds, bands: the range.": cosine_figure(results),
        "Retain loss and forget loss (as minimised) over the steps. Means over seeds, bands: the range.": loss_figure(
            results
        ),
        "Retain accuracy at equal forgetting by the ratio of the weights; means over seeds, bars: the range.": sweep_figure(
            results
        ),
    }
    return {caption: _svg(figure) for caption, figure in made.items() if figure is not None}


def frontier_figure(results: Results) -> Figure:
    """Draw the frontiers, covered above and held out below."""
    measures = {"covered": "covered", "held_out": "held out"}
    figure, axes = _panels(results, len(measures), "forget accuracy", share_y="row")
    target = results["identity"]["sizes"]["target"]
    for row, (measure, title) in enumerate(measures.items()):
        for column, objective in enumerate(_objectives(results)):
            panel = axes[row][column]
            for rule in STYLES:
                paths = [one["path"] for one in _cells(results, objective, rule) if measure in one["path"][0]]
                at = np.linspace(target, 1.0, 100)
                _band(panel, at, [_best(path, measure, at) for path in paths], rule, marker=None)
            panel.axvline(target, color="0.6", linestyle=":", linewidth=1)
            panel.set_xlim(1.02, target - 0.03)
            panel.set_ylabel(f"retain accuracy, {title}" if column == 0 else "")
    return _finish(figure, axes)


def cosine_figure(results: Results) -> Figure:
    """Draw cos(update, retain), on the same states above and along own paths below."""
    figure, axes = _panels(results, 2, "step", share_x="col")
    for column, objective in enumerate(_objectives(results)):
        for rule in STYLES:
            own = [_series(one["path"][1:], "cos_update_retain") for one in _cells(results, objective, rule)]
            same = [_series(one["states"], rule) for one in _cells(results, objective, "sum") if one.get("states")]
            for row, found in enumerate((same, own)):
                _band_of_series(axes[row][column], found, rule)
        for row, title in enumerate(("same states", "own path")):
            axes[row][column].axhline(0, color="0.7", linewidth=0.8)
            axes[row][column].set_ylabel(f"cos(update, retain), {title}" if column == 0 else "")
    return _finish(figure, axes)


def loss_figure(results: Results) -> Figure:
    """Draw the two losses over the steps."""
    figure, axes = _panels(results, 2, "step", share_x="col", share_y="none")
    for column, objective in enumerate(_objectives(results)):
        for row, name in enumerate(("retain_loss", "forget_loss")):
            for rule in STYLES:
                found = [_series(one["path"][1:], name) for one in _cells(results, objective, rule)]
                _band_of_series(axes[row][column], found, rule)
            axes[row][column].set_ylabel(name.replace("_", " ") if column == 0 else "")
    return _finish(figure, axes)


def sweep_figure(results: Results) -> Figure | None:
    """Draw retain accuracy at equal forgetting over gamma/alpha; None if the run has no sweep."""
    rate = results["common"]["learning_rate"]
    rows = [
        row
        for row in results["summary"]["all"]
        if row["bench"] == results["main_bench"] and row["learning_rate"] == rate
    ]
    if len({row["gamma"] for row in rows}) < 3:
        return None
    measures = {"covered": "covered", "held_out": "held out"}
    figure, axes = _panels(results, len(measures), "gamma / alpha")
    for row, (measure, title) in enumerate(measures.items()):
        for column, objective in enumerate(_objectives(results)):
            panel = axes[row][column]
            for shift, rule in enumerate(STYLES):
                points: dict[float, list[float]] = {}
                for one in results["cells"]:
                    if (one["role"], one["bench"], one["objective"], one["rule"], one["learning_rate"], one["reached"]) == (
                        "report", results["main_bench"], objective, rule, rate, True,
                    ):  # fmt: skip
                        points.setdefault(one["gamma"], []).append(one["retain_accuracy"][measure])
                if points:
                    gammas = sorted(points)
                    means = [float(np.mean(points[gamma])) for gamma in gammas]
                    spread = [
                        [mean - min(points[gamma]) for mean, gamma in zip(means, gammas, strict=True)],
                        [max(points[gamma]) - mean for mean, gamma in zip(means, gammas, strict=True)],
                    ]
                    at = [
                        gamma * 1.05 ** (shift - 1.5) for gamma in gammas
                    ]  # side by side, so that the bars can be seen
                    panel.errorbar(at, means, spread, label=NAMES[rule], capsize=2, markersize=4, **STYLES[rule])
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:g}")
            panel.set_ylabel(f"retain accuracy, {title}" if column == 0 else "")
    return _finish(figure, axes)


def _objectives(results: Results) -> list[str]:
    """Those that were run, a column each."""
    run = {one["objective"] for one in results["cells"]}
    return [objective for objective in OBJECTIVES if objective in run]


def _panels(
    results: Results, rows: int, label: str, *, share_x: Literal["all", "col"] = "all",
    share_y: Literal["all", "row", "none"] = "all",
) -> tuple[Figure, Any]:  # fmt: skip
    from matplotlib.figure import Figure as New

    columns = len(_objectives(results))
    figure = New(figsize=(3.5 * columns, 3.0 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False)
    for column, objective in enumerate(_objectives(results)):
        axes[0][column].set_title(NAMES[objective])
        axes[-1][column].set_xlabel(label)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92", linewidth=0.6)
    return figure, axes


def _finish(figure: Figure, axes: Any) -> Figure:
    found = {
        label: handle for panel in axes.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if found:
        figure.legend(
            found.values(),
            found.keys(),
            loc="outside lower center",
            ncols=min(len(found), 2 * axes.shape[1]),
            frameon=False,
        )
    return figure


def _cells(results: Results, objective: str, rule: str) -> list[Mapping[str, Any]]:
    """The cells at common settings, one a seed."""
    wanted = ("report", results["main_bench"], objective, rule, *results["common"].values())
    names = ("role", "bench", "objective", "rule", "gamma", "learning_rate")
    return [one for one in results["cells"] if tuple(one[name] for name in names) == wanted]


def _best(path: Sequence[Mapping[str, float]], measure: str, at: Any) -> list[float]:
    points = frontier(path, measure)
    return [max((value for forget, value in points if forget <= x + 1e-9), default=math.nan) for x in at]


def _series(points: Iterable[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(point["step"], point[name]) for point in points if point.get(name) is not None]


def _band_of_series(panel: Any, found: Sequence[Sequence[tuple[float, float]]], rule: str) -> None:
    """Draw over the steps that all seeds have: a mean over fewer would jump where one ends."""
    found = [series for series in found if series]
    if found:
        length = min(len(series) for series in found)
        steps = np.array([step for step, _ in found[0][:length]])
        _band(panel, steps, [[value for _, value in series[:length]] for series in found], rule, marker=None)


def _band(panel: Any, at: Any, values: Sequence[Sequence[float]], rule: str, **style: Any) -> None:
    if not values:
        return
    array = np.array(values)
    known = ~np.isnan(array).any(axis=0)
    if not known.any():
        return
    at, array = at[known], array[:, known]
    panel.plot(at, array.mean(axis=0), label=NAMES[rule], **{**STYLES[rule], **style})
    if len(array) > 1:
        panel.fill_between(
            at, array.min(axis=0), array.max(axis=0), color=STYLES[rule]["color"], alpha=0.15, linewidth=0
        )


def _svg(figure: Figure) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "retainfirst"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
