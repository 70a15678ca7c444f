"""Streaming: combine group by group while the retain pass still runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from retainfirst.errors import RetainFirstError, StaleGradient
from retainfirst.geometry import Geometry
from retainfirst.kernels import current_backend, use_backend

__all__ = ["Streaming"]


class Streaming:
    """Combines a group as soon as a step's retain pass has reached all of it.

    Args:
        parameters: What is trained, by name.
        groups: Names of the parameters that are combined together; each in one group.
        forget: The forget gradients, by name; a group's are freed when it is combined.
        combine: Combines a group (names, forget gradients, retain gradients), writes the update into the retain gradients, and
            returns the geometry; None for parameters that the optimiser does not change.

    Attributes:
        names: The combined parameters, in the order in which the pass reached them.
        geometries: The geometries, in the same order.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        groups: list[list[str]],
        forget: dict[str, Tensor],
        combine: Callable[[list[str], dict[str, Tensor], dict[str, Tensor]], Geometry | None],
    ) -> None:
        self._parameters, self._forget, self._combine = parameters, forget, combine
        self._group = {name: group for group in groups for name in group}
        self._waiting = {id(group): len(group) for group in groups}
        self._reached: set[str] = set()
        self._updates: dict[str, Tensor] = {}
        self._backend = current_backend()
        self.geometries: list[Geometry] = []
        self.names: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Return the context in which the backward pass of the retain loss runs."""
        handles = []
        try:
            for name in self._group:
                parameter: Any = self._parameters[name]  # torch has no types for this hook
                if parameter.requires_grad:
                    handles.append(
                        parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._arrived(name))
                    )
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name, update in self._updates.items():
            if self._parameters[name].grad is not update:
                raise StaleGradient(
                    f"{name}: its .grad was cleared or replaced inside `with step.retain():`, where stream=True had put the"
                    " update; call zero_grad() and optimizer.step() only after combine()"
                )

    def _arrived(self, name: str) -> None:
        if name in self._reached:
            raise RetainFirstError(
                f"{name}: a second backward pass reached it in `with step.retain():`, but stream=True has combined it already;"
                " use one retain loss and one backward pass a step (and gradient checkpointing with use_reentrant=False)"
            )
        self._reached.add(name)
        group = self._group[name]
        self._waiting[id(group)] -= 1
        if self._waiting[id(group)] > 0:
            return
        retain: dict[str, Tensor] = {}
        for member in group:
            gradient = self._parameters[member].grad
            if gradient is None:
                raise StaleGradient(f"{member}: its .grad was cleared during the retain pass")
            # A copy: autograd may have put there a view of a gradient that it still sends on to other parameters.
            retain[member] = self._parameters[member].grad = gradient.clone()
        self._updates |= retain
        forget = {member: self._forget.pop(member) for member in group if member in self._forget}
        with use_backend(self._backend):  # autograd's threads do not inherit the choice
            geometry = self._combine(group, forget, retain)
        self.geometries += [geometry] if geometry is not None else []
        self.names += group
