"""Sum: plain addition of the two gradients."""

from __future__ import annotations

from torch import Tensor

from retainfirst.combiners._elementwise import ElementwiseCombiner
from retainfirst.combiners._registry import register

__all__ = ["Sum"]


@register("sum")
class Sum(ElementwiseCombiner):
    """Weighted sum of the two gradients: ``u = alpha r + gamma f``.

    GradDiff's gradient, the paper's "naive". It promises nothing: the update can work against retention.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
    """

    def formula(self, forget: Tensor, retain: Tensor) -> Tensor:
        """``alpha r + gamma f``."""
        return self.alpha * retain + self.gamma * forget

    @property
    def fast(self) -> str:
        """``"sum"``."""
        return "sum"
