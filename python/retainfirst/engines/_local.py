"""One process: the engine that the others derive from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from retainfirst.errors import DtypeMismatch, StaleGradient
from retainfirst.moments import Reduce

__all__ = ["Engine", "Gradients", "local"]

Gradients = dict[str, Tensor]


class Engine:
    """One process by itself.

    Gradients live whole in ``.grad``. They are not averaged, and nothing is sent.

    Args:
        parameters: What is trained, by name.

    Attributes:
        reduce: Adds up tables of moments over the processes, where each holds only a part of every gradient; else None.
        values_stay: Whether parameters keep their values during a pass; else the engine itself gathers and frees them.
        averages_at_the_end: Whether :meth:`average` averages, at the end of a task's passes; else each pass does.
        steps_copies: Whether the optimiser moves copies of the parameters, not the parameters themselves.
    """

    reduce: Reduce | None = None
    averages_at_the_end: ClassVar[bool] = False
    values_stay: ClassVar[bool] = True
    steps_copies: ClassVar[bool] = False

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters

    @contextmanager
    def block(self, task: str, collected: Gradients) -> Iterator[None]:
        """Return the context in which forward and backward passes of a task run.

        Args:
            task: ``"forget"`` or ``"retain"``.
            collected: The task's gradients by parameter name; those of the passes are added when the context ends. Their form
                is the engine's own until :meth:`average` has returned them.
        """
        for name, gradient in collected.items():
            self.parameters[name].grad = gradient
        versions = [parameter._version for parameter in self.parameters.values()] if self.values_stay else []
        with self.passes():
            yield
        for (name, parameter), version in zip(self.parameters.items(), versions, strict=False):
            if parameter._version != version:
                raise StaleGradient(
                    f"{name}: its value changed inside `with step.{task}():`. An optimiser that steps in the backward pass (by"
                    " hooks on the parameters) takes each task's raw gradient; remove its hooks, and call optimizer.step()"
                    " after combine()"
                )
        places = set()
        for name, parameter in self.parameters.items():
            before, found = collected.get(name), parameter.grad
            if before is not None and found is not None and before.layout != found.layout:
                raise DtypeMismatch(
                    f"{name}: its gradient is {before.layout} in one microbatch and {found.layout} in another; combining needs"
                    " dense ones (for an embedding: sparse=False)"
                )
            # Autograd adds to a gradient in place (unless it keeps a graph of it), so another tensor means a fresh start.
            if before is not None and found is not before and not (found is not None and found.requires_grad):
                raise StaleGradient(
                    f"{name}: its .grad was cleared inside `with step.{task}():`, which loses microbatches of this step; call"
                    " zero_grad() and optimizer.step() only after combine()"
                )
            if found is None:
                continue
            # If one parameter's gradient is a view of another's, autograd gives both the same memory.
            if (place := _place(found)) in places:
                found = found.clone()
            places.update([place] if place else [])
            collected[name], parameter.grad = found, None

    def passes(self) -> AbstractContextManager[None]:
        """Return the context that keeps a distributed model from averaging by itself."""
        return nullcontext()

    def stale(self) -> str | None:
        """Return the name of a parameter that has a gradient outside the blocks; None if there is none."""
        return next((name for name, parameter in self.parameters.items() if parameter.grad is not None), None)

    def clear(self) -> None:
        """Drop the gradients of an interrupted block."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def average(self, gradients: Gradients) -> Callable[[], Gradients]:
        """Begin to average a task's gradients over the processes; every process must call it, whatever it has collected.

        Args:
            gradients: As collected; may be used up.

        Returns:
            A function that waits for the averages and returns this process's shards of them, by parameter name: the same names on
            every process, without the parameters that no pass on any process has reached.
        """
        return lambda: gradients

    def write(self, update: Gradients) -> None:
        """Leave the update where the optimiser looks for gradients.

        Args:
            update: By parameter name, in the memory of the averaged retain gradients.
        """
        for name, gradient in update.items():
            self.parameters[name].grad = gradient


def local(tensor: Tensor) -> Tensor:
    """Return the memory that a DTensor wraps, this process's shard; for another tensor, itself.

    Outside autograd ``to_local`` gives that tensor itself, not a view.
    """
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def _place(gradient: Tensor) -> int:
    """Return the address of a gradient; 0 for a tensor without one, or of an engine's own class."""
    plain = type(gradient) is Tensor and gradient.layout == torch.strided
    return gradient.data_ptr() if plain else 0
