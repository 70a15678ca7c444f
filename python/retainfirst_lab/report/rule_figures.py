"""The pictures of the rules: the update in the plane, and its angle to the retain gradient as the forget gradient turns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retainfirst.combiners import Combiner, combine, make_combiner
from retainfirst_lab.report import style

__all__ = ["draw"]

_RETAIN_ANGLE = math.radians(20)  # not along an axis, or no coordinate of the two gradients would ever conflict
_FORGET_LENGTH = 2.0
_EXAMPLE = math.radians(130)
"""The angle between the two gradients that the arrows show."""
_TURNS = torch.linspace(-math.pi, math.pi, 721, dtype=torch.float64)


def draw(folder: Path, rules: Mapping[str, Combiner]) -> None:
    """Write one picture for each rule, and ``three.svg`` with plain addition, PCGrad and SAGO side by side.

    Args:
        folder: Where to write ``NAME.svg``.
        rules: The combiners by the name of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, combiner in rules.items():
        figure, axes = style.panels(1, 2, 2.8, 2.7, margin=0, grid=False)
        _plane(axes[0, 0], combiner)
        _angles(axes[0, 1], name, combiner)
        _save(figure, folder / f"{name}.svg")
    figure, axes = style.panels(1, 3, 2.1, 2.1, margin=0.4, grid=False)
    for panel, (name, title) in zip(
        axes[0], {"sum": "plain addition", "pcgrad": "PCGrad", "sago": "SAGO"}.items(), strict=True
    ):
        _plane(panel, make_combiner(name))
        panel.set_title(title)
    _save(figure, folder / "three.svg")


def _plane(panel: Any, combiner: Combiner) -> None:
    """Draw both gradients, the update and the path of its tip while the forget gradient turns once."""
    retain = _vector(1.0, 0.0)
    side = 10.0 * torch.stack([retain, _vector(1.0, math.pi / 2), _vector(1.0, -math.pi / 2)])
    panel.fill(
        *zip(*(side[1], side[1] - side[0], side[2] - side[0], side[2]), strict=True),
        color=style.VERMILION,
        alpha=0.12,
        lw=0,
    )
    path = torch.stack([_update(combiner, turn) for turn in _TURNS.tolist()])
    panel.plot(*_broken(path), color=style.GREEN, linewidth=1.2, alpha=0.6)
    arrows = {
        "r": (retain, style.BLUE), "f": (_vector(_FORGET_LENGTH, _EXAMPLE), style.ORANGE),
        "u": (_update(combiner, _EXAMPLE), style.GREEN),
    }  # fmt: skip
    for label, (tip, color) in arrows.items():
        panel.annotate(
            "",
            tip.tolist(),
            (0, 0),
            arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2.2, "shrinkA": 0, "shrinkB": 0},
        )
        panel.annotate(label, tip.tolist(), (tip / tip.norm().clamp_min(1e-9) * 10).tolist(), textcoords="offset points",
                       color=color, ha="center", va="center", fontweight="bold")  # fmt: skip
    panel.axhline(0, color=style.LIGHT_GREY, linewidth=0.6, zorder=0)
    panel.axvline(0, color=style.LIGHT_GREY, linewidth=0.6, zorder=0)
    panel.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal", xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def _angles(panel: Any, name: str, combiner: Combiner) -> None:
    """Draw the cosine of the update with the retain gradient over the angle of the forget gradient."""
    lines = {name: (combiner, {"color": style.GREEN, "linewidth": 2.0})}
    if name != "sum":
        lines["sum"] = make_combiner("sum"), {"color": style.GREY, "linewidth": 1.0, "linestyle": "--"}
    retain = _vector(1.0, 0.0)
    for label, (one, look) in lines.items():
        cosines = torch.stack([torch.cosine_similarity(_update(one, turn), retain, dim=0) for turn in _TURNS.tolist()])
        panel.plot(*_broken(torch.stack([_TURNS.rad2deg(), cosines], dim=1)), label=label, **look)
    panel.axhspan(-1.1, 0, color=style.VERMILION, alpha=0.12, linewidth=0)
    panel.set(xlim=(-180, 180), ylim=(-1.1, 1.1), xticks=[-180, -90, 0, 90, 180])
    panel.set(xlabel="angle from r to f, degrees", ylabel="cosine of u with r")
    panel.legend(frameon=False, loc="lower center")


def _broken(points: Tensor) -> tuple[list[float], list[float]]:
    """Return x and y of a path, with a gap wherever it jumps."""
    x, y = points.clone().unbind(1)
    steps = points.diff(dim=0).abs()
    y[1:][(steps > 10 * steps.mean(dim=0)).any(dim=1)] = math.nan
    return x.tolist(), y.tolist()


def _vector(length: float, turn: float) -> Tensor:
    """Return a vector at an angle from the retain gradient."""
    angle = _RETAIN_ANGLE + turn
    return length * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


def _update(combiner: Combiner, turn: float) -> Tensor:
    return combine(_vector(_FORGET_LENGTH, turn), _vector(1.0, 0.0), combiner)


def _save(figure: Any, file: Path) -> None:
    """Write an SVG that depends on the numbers alone: the same picture has the same bytes."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "retainfirst", "path.simplify_threshold": 0.3}):
        figure.savefig(file, metadata={"Date": None, "Creator": None})
