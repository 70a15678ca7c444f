"""Figures of benchmark reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retainfirst.errors import require
from retainfirst_lab.report import style

__all__ = ["draw"]

Report = Mapping[str, Any]

_LINES: dict[str, dict[str, Any]] = {
    "baseline": {"color": style.BLACK, "linestyle": ":", "linewidth": 2.4},
    "copy": {"color": style.GREY, "linestyle": ":", "linewidth": 1.2},
    **{name: line for name, line in style.COMBINERS.items() if name != "sago_keep_retain"},  # it lies on SAGO's line
    "plain addition": {"color": style.ORANGE, "linestyle": "-", "marker": "x", "linewidth": 1},
    "torch.where": {"color": style.DARK_GREY, "linestyle": "-", "marker": "1", "linewidth": 1},
    "numpy": {"color": style.GREY, "linestyle": "-", "marker": "+", "linewidth": 1},
    "boolean mask": {"color": "0.2", "linestyle": "-", "marker": ".", "linewidth": 1},
    "TorchJD PCGrad": {"color": style.LIGHT_GREY, "linestyle": "--", "marker": "d", "linewidth": 1},
}


def draw(report: Report, path: Path) -> bool:
    """Draw a report into a PNG file.

    Args:
        report: Of any benchmark.
        path: The file.

    Returns:
        Whether there is a figure for this benchmark; if not, no file is written.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require("matplotlib", "plot")
    maker = _MAKERS.get(report["benchmark"])
    if maker is None:
        return False
    maker(report).savefig(path, dpi=120)
    return True


def _combine(report: Report) -> Any:
    """Time over size above, ratio to the baseline below; one column for each dtype, with the fewest threads."""
    rows = [row for row in report["rows"] if row["threads"] == min(report["threads"])]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, axes = _panels(2, len(dtypes))
    for column, dtype in enumerate(dtypes):
        upper, lower = axes[0][column], axes[1][column]
        for case, line in _LINES.items():
            mine = sorted(
                (row for row in rows if (row["dtype"], row["case"]) == (dtype, case)), key=lambda row: row["elements"]
            )
            if not mine:
                continue
            sizes = [row["elements"] for row in mine]
            upper.plot(sizes, [row["seconds"]["median"] for row in mine], label=case, markersize=4, **line)
            lower.plot(sizes, [row["wall_ratio"]["median"] for row in mine], markersize=4, **line)
        upper.set_title(f"{dtype}, {min(report['threads'])} thread(s)")
        lower.set_xlabel("elements")
        for panel in (upper, lower):
            panel.set_xscale("log")
            panel.set_yscale("log")
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel(f"x {rows[0]['against']}")
    style.legend(figure, axes, 6)
    return figure


def _step(report: Report) -> Any:
    """Ratios as points with their range."""
    figure, axes = _panels(1, 2)
    labels = [f"{row['case']}, {row['micro_batches']}" for row in report["rows"]]
    for panel, kind in zip(axes[0], ("cpu", "wall"), strict=True):
        for at, row in enumerate(report["rows"]):
            found = row[f"{kind}_ratio"]
            if found is not None:
                panel.plot([found["least"], found["greatest"]], [at, at], color="0.6")
                panel.plot(found["median"], at, marker="o", color=_color(row["case"]))
        panel.axvline(1, color=style.LIGHT_GREY, linewidth=0.8)
        panel.set_xlabel(f"{kind} time, x plain addition".replace("cpu", "CPU"))
        panel.set_yticks(range(len(labels)), labels)
        panel.invert_yaxis()
    return figure


def _memory(report: Report) -> Any:
    """Bars of the peak, a panel for each shape."""
    shapes = list(dict.fromkeys((row["batch"], row["length"], row["micro_batches"]) for row in report["rows"]))
    figure, axes = _panels(1, len(shapes))
    for panel, shape in zip(axes[0], shapes, strict=True):
        mine = [row for row in report["rows"] if (row["batch"], row["length"], row["micro_batches"]) == shape]
        panel.barh(
            [row["case"] for row in mine],
            [row["peak_mib"] for row in mine],
            color=[_color(row["case"]) for row in mine],
        )
        panel.invert_yaxis()
        panel.set_title("{} x {} tokens, {} microbatch(es)".format(*shape), fontsize="medium")
        panel.set_xlabel("peak above the model, MiB")
    return figure


_MAKERS = {"combine": _combine, "step": _step, "memory": _memory}


def _color(case: str) -> str:
    return str(_LINES.get(case.partition(",")[0], {"color": "0.6"})["color"])


def _panels(rows: int, columns: int) -> tuple[Any, Any]:
    return style.panels(rows, columns, 4.2, 3.0, margin=0.6)
