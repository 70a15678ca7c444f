"""A-GEM: the forget gradient, projected where it conflicts with retain."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from retainfirst.combiners._gru import rectified
from retainfirst.combiners._projection import ProjectionCombiner
from retainfirst.combiners._registry import register

__all__ = ["AGEM"]


@register("agem")
@dataclass(frozen=True)
class AGEM(ProjectionCombiner):
    """Averaged gradient episodic memory: ``u = gamma (f - min(0, <f,r>)/|r|^2 r)`` per group of the scope.

    The formula of :class:`~retainfirst.GRU` without its moving average; zero gradients, rounding and ``alpha`` as there. In
    A-GEM ``f`` is the gradient of the new task and ``r`` that of rows from earlier tasks.

    Source: Chaudhry et al., "Efficient Lifelong Learning with A-GEM", arXiv 1812.00420, equation 11.

    Args:
        alpha: Weight of the retain loss in logs, finite and above 0; the update does not use it.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``, which is theirs.
    """

    scope: str = "global"

    def coefficients(self, moments: Tensor) -> tuple[Tensor, float]:
        """``c_r = -gamma <f,r>/|r|^2`` under conflict, else 0; ``c_f = gamma``."""
        return rectified(self.gamma, moments)
