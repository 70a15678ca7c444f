"""A report as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retainfirst.errors import require

__all__ = ["draw"]

Report = Mapping[str, Any]

# Okabe and Ito's colours, told apart with every kind of colour vision; lines differ in dashes and markers too.
_STYLES: dict[str, dict[str, Any]] = {
    "limit": {"color": "black", "linestyle": ":", "linewidth": 2.4},
    "copy": {"color": "0.5", "linestyle": ":", "linewidth": 1.2},
    "sago": {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    "sum": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "pcgrad": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "blur": {"color": "#CC79A7", "linestyle": "--", "marker": "D"},
    "plain addition": {"color": "#E69F00", "linestyle": "-", "marker": "x", "linewidth": 1},
    "torch.where": {"color": "#56B4E9", "linestyle": "-", "marker": "v", "linewidth": 1},
    "numpy": {"color": "0.5", "linestyle": "-", "marker": "+", "linewidth": 1},
    "boolean mask": {"color": "0.2", "linestyle": "-", "marker": ".", "linewidth": 1},
    "TorchJD PCGrad": {"color": "0.65", "linestyle": "--", "marker": "d", "linewidth": 1},
}


def draw(report: Report, path: Path) -> bool:
    """Draw a report into a PNG file; return whether it is of a kind that has a figure.

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
    """Time over size above, the ratio to the limit below; a column for each dtype, with the fewest threads."""
    rows = [row for row in report["rows"] if row["threads"] == min(report["threads"])]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, axes = _panels(2, len(dtypes))
    for column, dtype in enumerate(dtypes):
        upper, lower = axes[0][column], axes[1][column]
        for case, style in _STYLES.items():
            mine = sorted(
                (row for row in rows if (row["dtype"], row["case"]) == (dtype, case)), key=lambda row: row["elements"]
            )
            sizes = [row["elements"] for row in mine]
            if not mine:
                continue
            upper.plot(sizes, [row["seconds"]["median"] for row in mine], label=case, markersize=4, **style)
            # The memory's limit is one by definition.
            lower.plot(sizes, [row["wall_ratio"]["median"] for row in mine], markersize=4, **style)
        upper.set_title(f"{dtype}, {min(report['threads'])} thread(s)")
        lower.set_xlabel("elements")
        for panel in (upper, lower):
            panel.set_xscale("log")
            panel.set_yscale("log")
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel(f"x {rows[0]['against']}")
    return _finish(figure, axes)


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
        panel.axvline(1, color="0.7", linewidth=0.8)
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
        panel.set_title("{} x {} tokens, {} micro-batch(es)".format(*shape), fontsize="medium")
        panel.set_xlabel("peak above the model, MiB")
    return figure


_MAKERS = {"combine": _combine, "step": _step, "memory": _memory}


def _color(case: str) -> str:
    return str(_STYLES.get(case.partition(",")[0], {"color": "0.6"})["color"])


def _panels(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, 3.0 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92", linewidth=0.6)
    return figure, axes


def _finish(figure: Any, axes: Any) -> Any:
    found = {
        label: handle for panel in axes.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=6, frameon=False)
    return figure
