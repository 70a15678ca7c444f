"""PCGrad: forget without its component against retain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.combiners._base import Rounding
from retainfirst.combiners._projection import ProjectionCombiner
from retainfirst.combiners._registry import register
from retainfirst.errors import RetainFirstError

__all__ = ["PCGrad"]


@register("pcgrad")
@dataclass(frozen=True)
class PCGrad(ProjectionCombiner):
    """Project forget onto the plane orthogonal to retain, where the two conflict.

    Per group of the scope: ``h = f - (<f,r> / |r|^2) r`` if ``<f,r> < 0``, else ``h = f``; ``u = alpha r + gamma h``. A zero
    retain gradient means no projection. In exact arithmetic ``<u,r> >= alpha |r|^2`` at every scope (theorem T2); stored in
    a floating-point format this fails once forget is longer than retain by about the format's precision (X2). Of the step it
    says something with SGD without momentum only: with Adam and others that scale each coordinate the step can work against
    retain (X3).

    With ``round_toward_retain``, ``<u,r> >= 0`` holds exactly for the stored update of every group, in every format and at
    every ratio of lengths, as long as ``u`` is finite. The coefficient of ``r`` is made larger by more than the dot products
    can be wrong, and each ``u_i`` is rounded in the direction of the sign of ``r_i``, so that no rounding makes ``u_i r_i``
    smaller. The price: an element is up to one unit in the last place from its exact value, not half a unit, and always on
    retain's side. What is done to the update afterwards, such as clipping, rounds again. It needs gradual underflow (the
    default; not ``torch.set_flush_denormal``). On a device without float64 it holds for groups of up to two million elements
    whose squares neither overflow nor underflow in float32.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020; one-sided as in Xiao et al., ACL 2026. Their scope
    is ``"module"`` in the paper and ``"tensor"`` in their code.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``.
        round_toward_retain: Round so that ``<u,r> >= 0`` holds for the stored update.

    Raises:
        RetainFirstError: A weight is out of its range, the scope is unknown, or ``round_toward_retain`` is no bool.
    """

    round_toward_retain: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.round_toward_retain, bool):
            raise RetainFirstError(
                f"PCGrad: round_toward_retain must be True or False, not {self.round_toward_retain!r}"
            )

    @property
    def rounding(self) -> Rounding:
        """``"toward_retain"`` if that was asked for."""
        return "toward_retain" if self.round_toward_retain else "nearest"

    def coefficients(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """``c_r = alpha - gamma <f,r>/|r|^2`` under conflict, else ``alpha``; ``c_f = gamma``.

        With ``round_toward_retain``, ``<f,r>`` is first made smaller by what rounding can have added to it.
        """
        if self.round_toward_retain:
            c_retain = self._safe_coefficient(moments)
        else:
            step = self.gamma * m.along_retain(moments)
            c_retain = torch.where(moments[:, m.FR] < 0, self.alpha - step, self.alpha)
        return c_retain, torch.full_like(c_retain, self.gamma)

    def _safe_coefficient(self, moments: Tensor) -> Tensor:
        """Return ``c_r`` with ``c_r |r|^2 + gamma <f,r> >= 0`` for the exact dot products, whatever those in the table lost.

        With ``v`` half the distance from 1 to the next number, a sum of ``n`` products made in any order is off by at most
        ``e = n v`` relative to the product of the two lengths (Jeannerod and Rump, "Improved error bounds for inner products
        in floating-point arithmetic", 2013). That is the error of ``<f,r>``, and once more that of ``|r|^2``, by which it is
        divided, so ``2 e + 8 v`` is needed, over ``(1 - e)^2`` as the lengths themselves are measured. ``3 (n + 32) v`` is
        more for all ``e <= 1/8``, and 32 covers the roundings here, the merging of sums, and products that underflow.
        """
        f, r = moments[:, m.FF].sqrt(), moments[:, m.RR].sqrt()
        bound = 1.5 * torch.finfo(moments.dtype).eps * (moments[:, m.COUNT] + 32)
        excess = bound * f * r - moments[:, m.FR]
        # Scaled up before the weight comes in and down after it: what underflows is then below any alpha.
        shift = moments[:, m.EF] - moments[:, m.ER]
        step = _scaled(self.gamma * _scaled(excess / moments[:, m.RR], shift.clamp_min(0)), shift.clamp_max(0))
        # A NaN is not above zero: no conflict, and the broken coordinate shows where it is.
        return torch.where((excess > 0) & (moments[:, m.RR] > 0), self.alpha + step, self.alpha)


def _scaled(x: Tensor, exponent: Tensor) -> Tensor:
    """Return ``x * 2**exponent``, in three steps, as the power itself may leave the range where the result does not."""
    third = torch.trunc(exponent / 3)
    return x * torch.exp2(third) * torch.exp2(third) * torch.exp2(exponent - 2 * third)
