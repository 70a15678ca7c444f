"""Combiners that decide coordinate by coordinate."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache

import torch
from torch import Tensor

from retainfirst import kernels
from retainfirst import moments as m
from retainfirst.combiners._base import Combiner
from retainfirst.combiners._checks import check_float32
from retainfirst.errors import RetainFirstError, ShapeMismatch
from retainfirst.kernels import Tensors
from retainfirst.scope import Groups

__all__ = ["ElementwiseCombiner"]


class ElementwiseCombiner(Combiner):
    """A combiner whose update at a coordinate depends on the two gradients at that coordinate alone.

    A subclass gives :meth:`formula`. It needs no groups, and no communication where gradients are sharded.

    Example:
        >>> import retainfirst as rf
        >>> class Clipped(rf.ElementwiseCombiner):
        ...     def formula(self, forget, retain):
        ...         return self.alpha * retain + self.gamma * forget.clamp(-1, 1)
        >>> rf.combine(torch.tensor([5.0]), torch.tensor([2.0]), Clipped())
        tensor([3.])
    """

    @abstractmethod
    def formula(self, forget: Tensor, retain: Tensor) -> Tensor:
        """Return the update, coordinate by coordinate.

        Large gradients come in pieces and sharded ones in shards, so a formula must not use a sum, a norm or a position. NaN
        and infinity in either input need no care: where the formula hides one, the update becomes ``forget + retain``.

        Args:
            forget: Forget gradient, float32 or float64 (16-bit formats are widened to float32), any shape; not to be changed.
            retain: Retain gradient, likewise.

        Returns:
            Shape of the inputs; rounded once to the gradients' dtype.
        """

    @property
    def fast(self) -> str | None:
        """Name of the Rust and Triton kernel with the same bits (:data:`retainfirst.kernels.FAST`); None: plain torch."""
        return None

    def _update(
        self,
        forget: Tensors,
        retain: Tensors,
        groups: Groups,  # noqa: ARG002
        reduce: m.Reduce | None,  # noqa: ARG002
        measure: bool,
    ) -> Tensor:
        if {*retain.dtypes} - {torch.float64}:
            check_float32("alpha", self.alpha)
            check_float32("gamma", self.gamma)
        fast = self.fast if _fast_is_of_formula(type(self)) else None
        if fast is None:
            self._refuse_mixing(retain[0].device)
        return kernels.elementwise_(self._checked_formula, fast, forget, retain, self.alpha, self.gamma, measure)

    def _checked_formula(self, forget: Tensor, retain: Tensor) -> Tensor:
        versions = forget._version, retain._version
        update = self.formula(forget, retain)
        if not isinstance(update, Tensor) or update.shape != retain.shape or not update.is_floating_point():
            found = f"{update.dtype} {tuple(update.shape)}" if isinstance(update, Tensor) else type(update).__name__
            raise ShapeMismatch(
                f"{self.name}: formula() must return floating-point numbers of shape {tuple(retain.shape)}, not {found}"
            )
        if (forget._version, retain._version) != versions:
            raise RetainFirstError(f"{self.name}: formula() changes its inputs in place; let it compute new tensors")
        hidden = update.isfinite() & ~(forget.isfinite() & retain.isfinite())
        return torch.where(hidden, forget + retain, update)

    def _refuse_mixing(self, device: torch.device) -> None:
        """Refuse, once an instance, a formula that mixes coordinates: pieces and shards would change its update."""
        if vars(self).get("_mixes_nothing"):
            return
        f, r = (torch.sin(torch.arange(1.0, 65.0, device=device) * step) for step in (1.7, 2.9))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            whole, again = self._checked_formula(f, r), self._checked_formula(f, r)
            parts = torch.cat([self._checked_formula(f[:24], r[:24]), self._checked_formula(f[24:], r[24:])])
        # Vectorised functions may differ in the last bits by position; a formula may draw random numbers.
        if torch.equal(whole, again) and not torch.allclose(whole, parts, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise RetainFirstError(
                f"{self.name}: formula() mixes coordinates: half of two gradients gives another update than the same half of"
                " the whole. Use a ProjectionCombiner for sums and norms"
            )
        object.__setattr__(self, "_mixes_nothing", True)


@cache
def _fast_is_of_formula(kind: type[ElementwiseCombiner]) -> bool:
    """Whether ``fast`` belongs to the formula: a subclass that overrides ``formula`` alone must not inherit the kernel."""
    formula, fast = (
        next(i for i, base in enumerate(kind.__mro__) if name in vars(base)) for name in ("formula", "fast")
    )
    return fast <= formula
