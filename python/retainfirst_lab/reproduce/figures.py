"""The figures of a reproduction report."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from retainfirst.errors import require
from retainfirst_lab.report import style
from retainfirst_lab.reproduce.attack_figure import CAPTION as ATTACKS_CAPTION
from retainfirst_lab.reproduce.attack_figure import attack_figure
from retainfirst_lab.reproduce.design import OBJECTIVES
from retainfirst_lab.reproduce.guard_figure import CAPTION as GUARD_CAPTION
from retainfirst_lab.reproduce.guard_figure import guard_figure
from retainfirst_lab.reproduce.matched import frontier
from retainfirst_lab.reproduce.table_parts import NAMES

__all__ = ["cosine_figure", "figures", "frontier_figure", "loss_figure", "sweep_figure"]

DRAWN = ("sum", "pcgrad", "sago", "sago_keep_retain")
MEASURES = {"covered": "covered", "held_out": "held out"}

Results = Mapping[str, Any]
Figure = Any


def figures(results: Results) -> dict[str, str]:
    """Return the figures that the run has data for, as SVG text by caption."""
    require("matplotlib", "plot")
    made = _of_combiners(results) if _objectives(results) else {}
    made |= {GUARD_CAPTION: guard_figure(results), ATTACKS_CAPTION: attack_figure(results)}
    return {caption: _svg(figure) for caption, figure in made.items() if figure is not None}


def _of_combiners(results: Results) -> dict[str, Figure]:
    return {
        "Retain accuracy against forget accuracy along each path; the upper right corner is the aim. Lines: the best retain"
        " accuracy reached at or below each forget accuracy, mean over seeds. Bands: the range over seeds. Dotted line: the"
        " forget accuracy at which results are compared.": frontier_figure(results),
        "Cosine of the update and the retain gradient. Above: all combiners on the same gradients, at the states of the naive"
        " path. Below: along each combiner's own path. Lines: means over seeds. Bands: the range.": cosine_figure(results),
        "Retain loss and forget loss (as minimised) over the steps. Lines: means over seeds. Bands: the range.":
        loss_figure(results),
        "Retain accuracy at equal forgetting by the ratio of the weights. Points: means over seeds. Bars: the range.":
        sweep_figure(results),
    }  # fmt: skip


def frontier_figure(results: Results) -> Figure:
    """Draw the frontiers; covered above, held out below."""
    figure, axes = _panels(results, len(MEASURES), "forget accuracy", share_y="row")
    target = results["identity"]["sizes"]["target"]
    for row, (measure, title) in enumerate(MEASURES.items()):
        for column, objective in enumerate(_objectives(results)):
            panel = axes[row][column]
            for variant in DRAWN:
                paths = [one["path"] for one in _cells(results, objective, variant) if measure in one["path"][0]]
                at = np.linspace(target, 1.0, 100)
                _band(panel, at, [_best(path, measure, at) for path in paths], variant, marker=None)
            panel.axvline(target, color="0.6", linestyle=":", linewidth=1)
            panel.set_xlim(1.02, target - 0.03)
            panel.set_ylabel(f"retain accuracy, {title}" if column == 0 else "")
    return _finish(figure, axes)


def cosine_figure(results: Results) -> Figure:
    """Draw cos(update, retain), on the same states above and along own paths below."""
    figure, axes = _panels(results, 2, "step", share_x="col")
    for column, objective in enumerate(_objectives(results)):
        for variant in DRAWN:
            own = [_series(one["path"][1:], "cos_update_retain") for one in _cells(results, objective, variant)]
            same = [_series(one["states"], variant) for one in _cells(results, objective, "sum") if one.get("states")]
            for row, found in enumerate((same, own)):
                _band_of_series(axes[row][column], found, variant)
        for row, title in enumerate(("same states", "own path")):
            axes[row][column].axhline(0, color="0.7", linewidth=0.8)
            axes[row][column].set_ylabel(f"cos(update, retain), {title}" if column == 0 else "")
    return _finish(figure, axes)


def loss_figure(results: Results) -> Figure:
    """Draw the two losses over the steps."""
    figure, axes = _panels(results, 2, "step", share_x="col", share_y="none")
    for column, objective in enumerate(_objectives(results)):
        for row, name in enumerate(("retain_loss", "forget_loss")):
            for variant in DRAWN:
                found = [_series(one["path"][1:], name) for one in _cells(results, objective, variant)]
                _band_of_series(axes[row][column], found, variant)
            axes[row][column].set_ylabel(name.replace("_", " ") if column == 0 else "")
    return _finish(figure, axes)


def sweep_figure(results: Results) -> Figure | None:
    """Draw retain accuracy at equal forgetting over gamma/alpha; return None if the run has no sweep."""
    rate = results["common"]["learning_rate"]
    rows = [
        row
        for row in results["summary"]["all"]
        if row["testbed"] == results["main_testbed"] and row["learning_rate"] == rate
    ]
    if len({row["gamma"] for row in rows}) < 3:
        return None
    figure, axes = _panels(results, len(MEASURES), "gamma / alpha")
    for row, (measure, title) in enumerate(MEASURES.items()):
        for column, objective in enumerate(_objectives(results)):
            panel = axes[row][column]
            for shift, variant in enumerate(DRAWN):
                points: dict[float, list[float]] = {}
                for one in results["cells"]:
                    if (one["role"], one["testbed"], one["objective"], one["variant"], one["learning_rate"], one["reached"]) == (
                        "report", results["main_testbed"], objective, variant, rate, True,
                    ):  # fmt: skip
                        points.setdefault(one["gamma"], []).append(one["retain_accuracy"][measure])
                if points:
                    gammas = sorted(points)
                    means = [float(np.mean(points[gamma])) for gamma in gammas]
                    spread = [
                        [mean - min(points[gamma]) for mean, gamma in zip(means, gammas, strict=True)],
                        [max(points[gamma]) - mean for mean, gamma in zip(means, gammas, strict=True)],
                    ]
                    at = [gamma * 1.05 ** (shift - 1.5) for gamma in gammas]  # side by side
                    panel.errorbar(
                        at, means, spread, label=NAMES[variant], capsize=2, markersize=4, **style.COMBINERS[variant]
                    )
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:g}")
            panel.set_ylabel(f"retain accuracy, {title}" if column == 0 else "")
    return _finish(figure, axes)


def _objectives(results: Results) -> list[str]:
    """The objectives that were run; each has a column."""
    run = {one["objective"] for one in results["cells"]}
    return [objective for objective in OBJECTIVES if objective in run]


def _panels(
    results: Results, rows: int, label: str, *, share_x: Literal["all", "col"] = "all",
    share_y: Literal["all", "row", "none"] = "all",
) -> tuple[Figure, Any]:  # fmt: skip
    columns = len(_objectives(results))
    figure, axes = style.panels(rows, columns, 3.5, 3.0, sharex=share_x, sharey=share_y)
    for column, objective in enumerate(_objectives(results)):
        axes[0][column].set_title(NAMES[objective])
        axes[-1][column].set_xlabel(label)
    return figure, axes


def _finish(figure: Figure, axes: Any) -> Figure:
    style.legend(figure, axes, 2 * axes.shape[1])
    return figure


def _cells(results: Results, objective: str, variant: str) -> list[Mapping[str, Any]]:
    """The cells at common settings, one for each seed."""
    wanted = ("report", results["main_testbed"], objective, variant, *results["common"].values())
    names = ("role", "testbed", "objective", "variant", "gamma", "learning_rate")
    return [one for one in results["cells"] if tuple(one[name] for name in names) == wanted]


def _best(path: Sequence[Mapping[str, float]], measure: str, at: Any) -> list[float]:
    points = frontier(path, measure)
    return [max((value for forget, value in points if forget <= x + 1e-9), default=math.nan) for x in at]


def _series(points: Iterable[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(point["step"], point[name]) for point in points if point.get(name) is not None]


def _band_of_series(panel: Any, found: Sequence[Sequence[tuple[float, float]]], variant: str) -> None:
    """Draw the steps that all seeds have; a mean over fewer seeds would jump."""
    found = [series for series in found if series]
    if found:
        length = min(len(series) for series in found)
        steps = np.array([step for step, _ in found[0][:length]])
        _band(panel, steps, [[value for _, value in series[:length]] for series in found], variant, marker=None)


def _band(panel: Any, at: Any, values: Sequence[Sequence[float]], variant: str, **options: Any) -> None:
    if not values:
        return
    array = np.array(values)
    known = ~np.isnan(array).any(axis=0)
    if not known.any():
        return
    at, array = at[known], array[:, known]
    panel.plot(at, array.mean(axis=0), label=NAMES[variant], **{**style.COMBINERS[variant], **options})
    if len(array) > 1:
        panel.fill_between(
            at, array.min(axis=0), array.max(axis=0), color=style.COMBINERS[variant]["color"], alpha=0.15, linewidth=0
        )


def _svg(figure: Figure) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "retainfirst"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
