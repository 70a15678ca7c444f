"""BLUR: the forget-first baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.combiners._projection import ProjectionCombiner
from retainfirst.combiners._registry import register

__all__ = ["BLUR"]


@register("blur")
@dataclass(frozen=True)
class BLUR(ProjectionCombiner):
    """Forget, plus the part of retain that is orthogonal to it.

    Per group of the scope: ``u = gamma f + alpha (r - (<r,f> / |f|^2) f)``. A zero forget gradient leaves retain as it is.
    For comparison only: forget is the primary task here, and nothing keeps the update from working against retention.

    Source: the BLUR baseline of Xiao et al., ACL 2026.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``.
    """

    scope: str = "global"

    def coefficients(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """``c_r = alpha``; ``c_f = gamma - alpha <r,f>/|f|^2``, or ``gamma`` for a zero forget gradient."""
        ff = moments[:, m.FF]
        step = self.alpha * (moments[:, m.FR] / ff * torch.exp2(moments[:, m.ER] - moments[:, m.EF]))
        c_forget = torch.where(ff == 0, self.gamma, self.gamma - step)
        return torch.full_like(c_forget, self.alpha), c_forget
