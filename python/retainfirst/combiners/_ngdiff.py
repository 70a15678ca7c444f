"""NGDiff: the sum of the two gradients, each divided by its norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.combiners._projection import ProjectionCombiner
from retainfirst.combiners._registry import register

__all__ = ["NGDiff"]


@register("ngdiff")
@dataclass(frozen=True)
class NGDiff(ProjectionCombiner):
    """Normalised gradient difference: ``u = alpha r/|r| + gamma f/|f|`` per group of the scope.

    The norm of neither loss decides the direction. A zero gradient stays zero. NaN or infinity in a gradient shows in the
    update, and so does a norm whose inverse float64 cannot hold (below 1e-308). It promises nothing: the update works against
    retention whenever ``alpha |r| < -gamma <f,r>/|f|``.

    Source: Bu et al., "Unlearning as multi-task optimization: A normalized gradient difference approach with an adaptive
    learning rate", arXiv 2410.22086. Their learning rate is not part of the combiner.

    Args:
        alpha: Weight of the normalised retain gradient, finite and above 0.
        gamma: Weight of the normalised forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``, which is theirs.
    """

    scope: str = "global"

    def coefficients(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """``c_r = alpha/|r|`` and ``c_f = gamma/|f|``; 0 for a zero gradient."""
        return (
            _over_norm(self.alpha, moments[:, m.RR], moments[:, m.ER]),
            _over_norm(self.gamma, moments[:, m.FF], moments[:, m.EF]),
        )


def _over_norm(weight: float, square: Tensor, exponent: Tensor) -> Tensor:
    return torch.where(square == 0, 0.0, weight / square.sqrt() * torch.exp2(-exponent))
