"""SAGO: the signs of the two gradients decide at each coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retainfirst.combiners._elementwise import ElementwiseCombiner
from retainfirst.combiners._registry import register

__all__ = ["SAGO"]


@register("sago", keep_retain=False)
@register("sago_keep_retain", keep_retain=True)
@dataclass(frozen=True)
class SAGO(ElementwiseCombiner):
    """Sign-aligned synthesis: retain alone where the two signs oppose, forget elsewhere.

    Per coordinate ``u_i = alpha r_i`` if ``f_i`` and ``r_i`` have opposite signs, else ``u_i = gamma f_i``, or
    ``alpha r_i + gamma f_i`` with ``keep_retain``. A zero opposes nothing. No coordinate of the update opposes retain
    (theorem T1), so ``<u, r> >= 0`` (T2), both exactly in floating point, since nothing is subtracted. Of the step it says the
    same with optimisers that scale each coordinate by a positive number (T9, T10); momentum and weight decay can break it
    (X4). NaN or infinity in either gradient shows in the update.

    Source: Xiao et al., ACL 2026, the definition of SAGO. ``keep_retain`` is a variant of the authors' code; MUDMAN (Filip
    Sondej et al., arXiv 2506.12484) masks forget updates by the same comparison of signs. Theorem T6 covers it: it is at
    least as close to retain as PCGrad at any scope.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
        keep_retain: Add retain where the signs agree, instead of leaving it out.
    """

    keep_retain: bool = False

    @property
    def name(self) -> str:
        """``"sago"`` or ``"sago_keep_retain"``."""
        return "sago_keep_retain" if self.keep_retain else "sago"

    def formula(self, forget: Tensor, retain: Tensor) -> Tensor:
        """See the class."""
        kept, taken = self.alpha * retain, self.gamma * forget
        # Two signs, not a product: the product of two small gradients underflows to zero and would hide their conflict.
        conflict = ((forget < 0) & (retain > 0)) | ((forget > 0) & (retain < 0))
        update = torch.where(conflict, kept, kept + taken if self.keep_retain else taken)
        # A mask alone would pick the finite one of the two and hide a broken gradient from the loss scaler.
        return torch.where(forget.isfinite() & retain.isfinite(), update, forget + retain)

    @property
    def fast(self) -> str:
        """The combiner's name."""
        return self.name
