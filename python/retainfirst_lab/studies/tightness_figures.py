"""The figures of :mod:`retainfirst_lab.studies.tightness`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retainfirst_lab.report import style

__all__ = ["draw_crossing", "draw_tightness"]

_ABOVE: dict[str, Any] = {"frameon": False, "loc": "lower center", "bbox_to_anchor": (0.5, 1), "columnspacing": 1}
_THIN: dict[str, Any] = {"linewidth": 0.9, "linestyle": (0, (4, 3))}
# The lines of this figure carry labels in SAGO's colour, so they have their own styles.
_SAGO = style.BLUE
_LINES: dict[str, tuple[str, str, Any]] = {
    "sago": ("SAGO", _SAGO, "-"),
    "sago_keep_retain": ("SAGO, keep_retain", style.GREEN, (0, (6, 1.5))),
    "pcgrad": ("PCGrad (global scope)", style.VERMILION, "-"),
    "sum": ("plain addition", style.DARK_GREY, (0, (1.5, 1.5))),
}
_MARKERS = ("o", "s", "^", "v", "P", "X", "*")


def draw_crossing(crossing: Mapping[str, Any], path: Path) -> None:
    """Draw the exact cosines of one pair over l.

    Args:
        crossing: The report's entry of this name.
        path: The PNG file.
    """
    figure, [[axes]] = _panels(1, 1, 10, 5.6)
    ratios, point, bound, floor = (crossing[name] for name in ("l", "crossing_point", "t5_bound", "floor"))
    for name, (label, color, dashes) in _LINES.items():
        axes.plot(ratios, crossing["cosines"][name], color=color, linestyle=dashes, linewidth=2, label=label)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.axhline(floor, color=_SAGO, **_THIN)
    axes.text(1.2e-3, floor + 0.012, f"SAGO's floor (T8): {floor:.2f}", color=_SAGO)
    axes.axvspan(point, ratios[-1], color=_SAGO, alpha=0.06, linewidth=0)
    axes.axvline(point, color=style.BLACK, linewidth=0.9)
    foot = min(-0.1, *crossing["cosines"]["sum"])
    axes.text(point / 1.08, foot, f"l* = {point:.2f} (T7)", ha="right")
    axes.axvline(bound, color=style.BLACK, **_THIN)
    axes.text(bound * 1.08, foot, f"b/p = {bound:.2f} (T5)")
    for x, side, word in ((1.2e-3, "left", "looser"), (0.8 * ratios[-1], "right", "tighter")):
        axes.text(x, 0.64, f"SAGO {word}\nthan PCGrad", color=_SAGO, ha=side, va="center")
    title = (
        f"Whole gradients of step {crossing['step']} (seed {crossing['seed']}): |f| / |r| = "
        f"{crossing['forget_over_retain']:.2f}, cos(f, r) = {crossing['cos_forget_retain']:.2f}"
    )
    axes.set(xscale="log", xlim=(ratios[0], ratios[-1]), ylim=(foot - 0.02, 1.03), title=title.replace("-", "\u2212"))
    axes.set_xlabel("l = gamma / alpha")
    axes.set_ylabel("cosine of the update and the retain gradient")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.34))
    figure.savefig(path, dpi=140)


def draw_tightness(report: Mapping[str, Any], ratios: Sequence[float], path: Path) -> None:
    """Draw the crossing points, and the shares of cases in which SAGO is tighter.

    Args:
        report: Of the study.
        ratios: The ratios l of the shares.
        path: The PNG file.
    """
    figure, [[steps, model], [norms, tensors]] = _panels(2, 2, 5, 3.8, width_ratios=(1.3, 1))
    _points(report, ratios, steps, norms)
    _shares(report, ratios, "model", model)
    _shares(report, ratios, "tensor", tensors)
    figure.savefig(path, dpi=140)


def _panels(rows: int, columns: int, width: float, height: float, **subplots: Any) -> tuple[Any, Any]:
    return style.panels(rows, columns, width, height, margin=0, grid=False, **subplots)


def _points(report: Mapping[str, Any], ratios: Sequence[float], steps: Any, norms: Any) -> None:
    """Draw the crossing points over the steps, and over the ratio of the gradients' norms."""
    conflicting = [row for row in report["rows"] if row["conflict"]]
    for seed, marker in zip(report["seeds"], itertools.cycle(_MARKERS)):
        own = [row for row in conflicting if row["seed"] == seed]
        points = [row["crossing_point"] for row in own]
        look = {"marker": marker, "s": 18, "color": _SAGO, "alpha": 0.75, "linewidth": 0, "label": f"seed {seed}"}
        steps.scatter([row["step"] for row in own], points, **look)
        norms.scatter([1 / row["forget_over_retain"] for row in own], points, **look)
    free = [row["step"] for row in report["rows"] if not row["conflict"]]
    foot = 0.6 * min([ratios[0], *(row["crossing_point"] for row in conflicting)])
    none = {"marker": "x", "s": 22, "color": style.DARK_GREY, "linewidth": 1.2, "label": "no conflict, no l*"}
    steps.scatter(free, [foot] * len(free), **none)
    ends = norms.get_xlim()
    norms.plot(ends, ends, color=style.DARK_GREY, label="l* = |r| / |f|", zorder=0)
    for ratio in ratios:
        steps.axhline(ratio, color=style.BLACK, zorder=0, **_THIN)
        run = "\n(the run)" if ratio == report["gamma_of_the_run"] else ""
        steps.text(1.01, ratio, f"l = {ratio:g}{run}", transform=steps.get_yaxis_transform(), va="center")
    steps.set(yscale="log", xlabel="step", ylabel="crossing point l*, whole model")
    steps.legend(**_ABOVE, ncols=4, handletextpad=0.3)
    norms.set(xscale="log", yscale="log", ylabel="crossing point l*, whole model")
    norms.set_xlabel("|r| / |f|: the l at which both weighted gradients have the same norm")
    norms.legend(*(part[-1:] for part in norms.get_legend_handles_labels()), frameon=False, loc="upper left")


def _shares(report: Mapping[str, Any], ratios: Sequence[float], unit: str, axes: Any) -> None:
    """Draw bars for all seeds together, with a line from the least to the greatest seed."""
    for offset, conflict, color, label in (
        (-0.2, True, _SAGO, "conflict"), (0.2, False, style.LIGHT_GREY, "no conflict"),
    ):  # fmt: skip
        rows = [row for row in report["shares"] if (row["unit"], row["conflict"]) == (unit, conflict) and row["cases"]]
        if not rows:
            continue
        x = [ratios.index(row["l"]) + offset for row in rows]
        share = [100 * row["sago"]["share_tighter"] for row in rows]
        ends = [[100 * row["sago"]["share_tighter_by_seed"][end] for row in rows] for end in ("least", "greatest")]
        axes.bar(x, share, 0.38, color=color, label=f"{label} ({rows[0]['cases']:,})")
        axes.vlines(x, *ends, color=style.BLACK, linewidth=1.2)
    axes.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
    axes.set(ylim=(0, 101), xlabel="l = gamma / alpha", ylabel="SAGO tighter, % of cases")
    title = "Whole model, PCGrad global" if unit == "model" else "Parameter tensors, PCGrad per tensor"
    axes.legend(**_ABOVE, ncols=2, title=title)
