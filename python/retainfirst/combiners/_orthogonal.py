"""Orthogonal: retain, and the part of forget that is orthogonal to it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from retainfirst import moments as m
from retainfirst.combiners._projection import ProjectionCombiner
from retainfirst.combiners._registry import register

__all__ = ["Orthogonal"]


@register("orthogonal")
@dataclass(frozen=True)
class Orthogonal(ProjectionCombiner):
    """Always project forget: ``u = alpha r + gamma (f - <f,r>/|r|^2 r)`` per group of the scope.

    PCGrad projects under conflict alone; this also removes the part of forget that helps retain. A zero retain gradient means
    no projection. In exact arithmetic ``<u,r> = alpha |r|^2`` (T2); rounding can break ``<u,r> >= 0``, as for PCGrad (X2), and
    so can an optimiser such as Adam (X3).

    Source: arXiv 2511.17100.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``.
    """

    scope: str = "global"

    def coefficients(self, moments: Tensor) -> tuple[Tensor, float]:
        """``c_r = alpha - gamma <f,r>/|r|^2``, or ``alpha`` for a zero retain gradient; ``c_f = gamma``."""
        return self.alpha - self.gamma * m.along_retain(moments), self.gamma
