"""What one step has collected for one of its two tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from retainfirst.engines import Engine, Gradients

__all__ = ["Task", "TaskName"]

TaskName = Literal["forget", "retain"]


class Task:
    """The gradients of one task in the current step.

    Attributes:
        name: ``"forget"`` or ``"retain"``.
        gradients: By parameter name: what the blocks have collected, and the averages over processes once :meth:`averages` has
            returned them.
    """

    def __init__(self, name: TaskName) -> None:
        self.name: TaskName = name
        self.reset()

    def reset(self) -> None:
        """Forget the current step."""
        self.gradients: Gradients = {}
        self._wait: Callable[[], Gradients] | None = None
        self._averaged = False

    @property
    def closed(self) -> bool:
        """Whether averaging has begun, so that no block may follow."""
        return self._wait is not None

    def close(self, engine: Engine) -> None:
        """Begin to average over processes, if that has not begun."""
        if self._wait is None:
            self._wait = engine.average(self.gradients)

    def averages(self, engine: Engine) -> Gradients:
        """Return the averages over processes; the first call waits for them."""
        self.close(engine)
        if not self._averaged and self._wait is not None:
            self.gradients, self._averaged = self._wait(), True
        return self.gradients
