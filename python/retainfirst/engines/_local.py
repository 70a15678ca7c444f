"""One process: the engine that the others derive from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

__all__ = ["Engine", "Gradients"]

Gradients = dict[str, Tensor]


class Engine:
    """One process by itself.

    Gradients live whole in ``.grad``. They are not averaged, and nothing is sent.

    Args:
        parameters: What is trained, by name.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters

    def passes(self) -> AbstractContextManager[None]:
        """Return the context in which forward and backward passes of a task run."""
        return nullcontext()

    def average(self, gradients: Gradients) -> Callable[[], Gradients]:
        """Begin to average a task's gradients over the processes; every process must call it, whatever it has collected.

        Args:
            gradients: By parameter name; a parameter that no pass on this process has reached is absent. May be used up.

        Returns:
            A function that waits for the averages and returns them. A parameter that some process has reached is in them on
            every process.
        """
        return lambda: gradients
