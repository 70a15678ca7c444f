"""A moving average in place of the retain gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from retainfirst.errors import RetainFirstError

__all__ = ["RetainAverage"]


class RetainAverage:
    """The exponential moving average of the retain gradients, by parameter: one gradient set, where the gradients are.

    Args:
        decay: Share of the old average, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._averages: dict[str, Tensor] = {}

    @torch.no_grad()
    def replace(self, names: Iterable[str], retain: Mapping[str, Tensor]) -> None:
        """Take a step's retain gradients into the average, and overwrite them with it.

        Args:
            names: The parameters.
            retain: Their retain gradients; on a process with shards, its shards.

        Raises:
            RetainFirstError: A gradient has another shape than before.
        """
        for name in names:
            gradient, average = retain[name], self._averages.get(name)
            if average is None:
                # The first gradient is the average.
                self._averages[name] = gradient.detach().clone()
                continue
            if average.shape != gradient.shape:
                raise RetainFirstError(
                    f"{name}: the moving average of its retain gradient has shape {tuple(average.shape)}, the gradient"
                    f" {tuple(gradient.shape)}; resume on as many processes as before, with the same model"
                )
            if average.device != gradient.device or average.dtype != gradient.dtype:  # loaded from a checkpoint
                average = self._averages[name] = average.to(gradient.device, gradient.dtype)
            average.mul_(self._decay).add_(gradient, alpha=1 - self._decay)
            gradient.copy_(average)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by parameter name; no copies."""
        return dict(self._averages)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from an average."""
        self._averages = {name: average.clone() for name, average in state.items()}
