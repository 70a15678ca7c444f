"""Plain addition: what unlearning does today."""

from __future__ import annotations

from retainfirst.combiners._base import ElementwiseCombiner

__all__ = ["Sum"]


class Sum(ElementwiseCombiner):
    """Weighted sum of the two gradients: ``u = alpha r + gamma f``.

    GradDiff's gradient, the paper's "naive". It promises nothing: the update can work against retention.
    """

    @property
    def name(self) -> str:
        """``"sum"``."""
        return "sum"
