"""PCGrad: forget without its component against retain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.combiners._base import ProjectionCombiner

__all__ = ["PCGrad"]


@dataclass(frozen=True)
class PCGrad(ProjectionCombiner):
    """Project forget on the plane that leaves retain alone, where the two conflict.

    Per group of the scope: ``h = f - (<f,r> / |r|^2) r`` if ``<f,r> < 0``, else ``h = f``; ``u = alpha r + gamma h``. A zero
    retain gradient means no projection. In exact arithmetic ``<u,r> >= alpha |r|^2`` at every scope (theorem T2); stored in
    a floating-point format this fails once forget is longer than retain by about the format's precision (X2).

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020; one-sided as in Xiao et al., ACL 2026. Their scope
    is ``"module"`` in the paper and ``"tensor"`` in their code; GRU uses ``"global"``.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``.
    """

    @property
    def name(self) -> str:
        """``"pcgrad"``."""
        return "pcgrad"

    def coefficients(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """``c_r = alpha - gamma <f,r>/|r|^2`` under conflict, else ``alpha``; ``c_f = gamma``."""
        conflict = (moments[:, m.FR] < 0) & (moments[:, m.RR] > 0)
        ratio = moments[:, m.FR] / moments[:, m.RR] * torch.exp2(moments[:, m.EF] - moments[:, m.ER])
        c_retain = torch.where(conflict, self.alpha - self.gamma * ratio, self.alpha)
        return c_retain, torch.full_like(c_retain, self.gamma)
