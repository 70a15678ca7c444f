"""Offloading: the gradients of the idle task wait in host memory."""

from __future__ import annotations

from retainfirst.engines import Engine, HostMemory
from retainfirst.step._task import Task

__all__ = ["Offload"]


class Offload:
    """Moves gradients so that the device holds those of one task."""

    def __init__(self) -> None:
        self._memory = HostMemory()

    def make_room(self, task: Task, idle: Task, engine: Engine) -> None:
        """Bring a task's gradients to the device before its passes, and the idle task's to the host."""
        leaving = idle.averages(engine) if idle.closed else idle.gradients
        self._memory.swap(idle.name, leaving, task.gradients, engine.parameters)

    def average(self, task: Task, idle: Task, engine: Engine) -> None:
        """Average a task's gradients and wait: with both tasks in flight the device would hold two gradient sets."""
        if engine.averages_at_the_end and not task.closed:
            self.make_room(task, idle, engine)
            task.averages(engine)
