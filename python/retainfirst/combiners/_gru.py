"""GRU: the forget gradient without its component against retain, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.combiners._checks import check_fraction
from retainfirst.combiners._projection import ProjectionCombiner
from retainfirst.combiners._registry import register

__all__ = ["GRU", "rectified"]


@register("gru")
@dataclass(frozen=True)
class GRU(ProjectionCombiner):
    """Gradient rectified unlearning: ``u = gamma (f - min(0, <f,r>)/|r|^2 r)`` per group of the scope.

    The retain gradient steers the update but is not added to it, so ``alpha`` has no effect on ``u``. A zero retain gradient
    means no projection, a zero forget gradient a zero update. In exact arithmetic ``<u,r> >= 0`` (T2), with equality under
    conflict; rounding can break it, as it does for PCGrad (X2), and so can an optimiser such as Adam (X3).

    With ``average``, an exponential moving average of the retain gradients stands for ``r``: ``average`` times the old one plus
    ``1 - average`` times the new gradient, beginning with the first gradient. T2 then holds for the average.
    :class:`~retainfirst.TwoTaskStep` keeps it (one more gradient set) and returns it in its ``state_dict()``.

    Source: Wang et al., "GRU: Mitigating the Trade-off between Unlearning and Retention for Large Language Models",
    arXiv 2503.09117.

    Args:
        alpha: Weight of the retain loss in logs, finite and above 0; the update does not use it.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``, which is theirs.
        average: Decay of the moving average, in [0, 1); 0: the retain gradient of the step.

    Raises:
        RetainFirstError: A weight or ``average`` is out of its range, or the scope is unknown.
    """

    scope: str = "global"
    average: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "average", check_fraction("GRU", "average", self.average))

    def coefficients(self, moments: Tensor) -> tuple[Tensor, float]:
        """``c_r = -gamma <f,r>/|r|^2`` under conflict, else 0; ``c_f = gamma``."""
        return rectified(self.gamma, moments)


def rectified(gamma: float, moments: Tensor) -> tuple[Tensor, float]:
    """Return the coefficients of ``gamma (f - min(0, <f,r>)/|r|^2 r)``."""
    return torch.where(moments[:, m.FR] < 0, -gamma * m.along_retain(moments), 0.0), gamma
