"""The report of an evaluation: ``evaluation.json`` and one HTML page that needs no other file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from retainfirst.errors import require
from retainfirst.evaluation._evaluate import Evaluation
from retainfirst.evaluation._measure import METRICS
from retainfirst.evaluation._tables import table_headings, table_lines
from retainfirst.evaluation._verdicts import verdicts
from retainfirst.files import write_json, write_whole

__all__ = ["evaluation_page", "report_data", "write_report"]

_SHOWN = 10
"""Rows of each set whose answers stand side by side on the page."""

_PLOTTED = ("probability", "rouge_l_recall")
_COLOURS = {"forget": "#D55E00", "retain": "#0072B2", "held_out": "#009E73", "paraphrased": "#CC79A7"}


def report_data(found: Evaluation, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``evaluation.json``.

    Args:
        found: The evaluation.
        run: Facts about the run: the models, their hashes, the settings, the versions.
    """
    return {"run": dict(run), "verdicts": [asdict(one) for one in verdicts(found)], **found.as_dict()}


def write_report(found: Evaluation, run: Mapping[str, Any], folder: Path) -> None:
    """Write ``evaluation.json`` and ``evaluation.html``.

    Args:
        found: The evaluation.
        run: As in :func:`report_data`.
        folder: An existing folder; files of these names are replaced.

    Raises:
        MissingDependency: matplotlib or jinja2 is not installed (extra ``plot``).
        RetainFirstError: The files cannot be written.
    """
    write_json(folder / "evaluation.json", report_data(found, run), indent=1)
    write_whole(folder / "evaluation.html", evaluation_page(found, run))


def evaluation_page(found: Evaluation, run: Mapping[str, Any]) -> str:
    """Return the page: verdicts, table, figure, answers side by side, what was left out, and the run.

    Args:
        found: The evaluation.
        run: As in :func:`report_data`.

    Raises:
        MissingDependency: matplotlib or jinja2 is not installed (extra ``plot``).
    """
    jinja2 = require("jinja2", "plot")
    template = files("retainfirst.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page: str = environment.from_string(template).render(
        verdicts=verdicts(found),
        headings=table_headings(found),
        lines=[(one.set.replace("_", " "), one.title, one.cells(intervals=True)) for one in table_lines(found)],
        figure=_figure(found),
        answers=_side_by_side(found),
        skipped=[(METRICS.get(one.metric, one.metric), one.set.replace("_", " "), one.reason) for one in found.skipped],
        sets=[(name.replace("_", " "), one.source, len(one)) for name, one in found.sets.items()],
        run=run,
    )
    return page + "\n"


def _side_by_side(found: Evaluation) -> list[dict[str, Any]]:
    """Return the first rows of each set with the answers of the conditions that asked all rows."""
    shown = [one for one in found.conditions if one.forget_rows is None and one.kind != "prompt"]
    parts = []
    for name in found.sets:
        answered = [(one.name, one.measured.answers[name]) for one in shown if name in one.measured.answers]
        if answered:
            first = answered[0][1]
            rows = [
                (first[i].prompt, first[i].reference, [answers[i].text for _, answers in answered])
                for i in range(min(_SHOWN, len(first)))
            ]
            parts.append({"set": name.replace("_", " "), "headings": [one for one, _ in answered], "rows": rows})
    return parts


def _figure(found: Evaluation) -> str:
    """Draw what the model says and how probable it finds it, by condition, as SVG."""
    require("matplotlib", "plot")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = [one for one in table_lines(found) if one.metric in _PLOTTED]
    metrics = [metric for metric in _PLOTTED if any(one.metric == metric for one in drawn)]
    names = table_headings(found)
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for number, line in enumerate(one for one in drawn if one.metric == metric):
            for place, value in enumerate(line.values):
                if value is None:
                    continue
                y = place + 0.12 * number
                low, high = (value.value if end is None else end for end in (value.low, value.high))
                label = line.set.replace("_", " ") if place == 0 else None
                panel.plot([low, high], [y, y], color=_COLOURS[line.set], linewidth=1.4)
                panel.plot([value.value], [y], "o", color=_COLOURS[line.set], markersize=5, label=label)
        panel.set_title(METRICS[metric], fontsize=10)
        panel.set_xlim(-0.02, 1.02)
        panel.set_yticks(range(len(names)), names)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", color="0.92", linewidth=0.6)
    panels[0].invert_yaxis()
    panels[-1].legend(frameon=False, fontsize=8, loc="best")
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "retainfirst"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
