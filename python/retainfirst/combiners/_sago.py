"""SAGO: forget and retain decided coordinate by coordinate, by sign."""

from __future__ import annotations

from dataclasses import dataclass

from retainfirst.combiners._base import ElementwiseCombiner

__all__ = ["SAGO"]


@dataclass(frozen=True)
class SAGO(ElementwiseCombiner):
    """Sign-aligned synthesis: where the two signs oppose, retain alone; elsewhere, forget.

    Per coordinate ``u_i = alpha r_i`` if ``f_i`` and ``r_i`` have opposite signs, else ``u_i = gamma f_i``, or
    ``alpha r_i + gamma f_i`` with ``keep_retain``. A zero opposes nothing. No coordinate of the update opposes retain
    (theorem T1), so ``<u, r> >= 0`` (T2), both exactly in floating point, since nothing is subtracted. NaN or infinity in
    either gradient shows in the update.

    Source: Xiao et al., ACL 2026, the definition of SAGO; ``keep_retain`` is a variant of the authors' code, which this
    project's theorem T6 covers: it is at least as close to retain as PCGrad at any scope.

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
