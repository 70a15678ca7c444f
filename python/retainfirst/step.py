"""Two gradients where training has one: collect them apart, combine them, and leave the result in ``.grad``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.combiners import Combiner, check_pair, resolve
from retainfirst.errors import NonFiniteGradient, RetainFirstError, StaleGradient
from retainfirst.geometry import Geometry

__all__ = ["TwoTaskStep"]

_TASKS = ("forget", "retain")
_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")


class TwoTaskStep:
    """Collects the forget and the retain gradient of one optimiser step and combines them.

    Inside :meth:`forget` and :meth:`retain` autograd accumulates straight into that task's gradients; between the blocks
    every ``.grad`` is None. :meth:`combine` writes the update over the retain gradients and hands them to ``.grad``, so one
    gradient set is held on top of what plain training holds, and a single activation graph is alive if each loss is computed
    inside its block. Any number of micro-batches may go into a step, in any order.

    A parameter that only one task reaches counts as zero for the other; one that neither reaches keeps ``.grad = None``.
    An exception inside a block discards the whole step, both tasks, and passes on: the model has no ``.grad`` then, and the
    next block starts a new step.

    Args:
        model: The model, or its parameters, plain or with names; the frozen ones are left alone. Which ones are frozen is
            looked up at the start of each step.
        combiner: A combiner, or a name with its ``options``.
        check_finite: Raise :class:`~retainfirst.errors.NonFiniteGradient` when a gradient holds NaN or infinity. Costs a wait
            for the device at each step. Without it such values show in the update, as a loss scaler expects.
        **options: ``alpha``, ``gamma``, ``scope``, ``aggregator``; only with a name.

    Raises:
        UnknownCombiner: No combiner has that name.
        RetainFirstError: Nothing to train, or a model that shards or averages gradients over processes by itself.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> step = TwoTaskStep(model, "sago", alpha=1.0, gamma=0.5)
        >>> with step.forget():
        ...     (-model(torch.ones(4, 2)).square().mean()).backward()
        >>> with step.retain():
        ...     model(-torch.ones(4, 2)).square().mean().backward()
        >>> geometry = step.combine()  # then optimizer.step() and optimizer.zero_grad()
        >>> geometry.cos_update_retain >= 0
        True
    """

    def __init__(
        self,
        model: nn.Module | Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
        combiner: str | Combiner = "sago",
        *,
        check_finite: bool = False,
        **options: Any,
    ) -> None:
        self.combiner = resolve(combiner, **options)
        self.check_finite = check_finite
        self._source = model if isinstance(model, nn.Module) else _named(model)
        self._active: dict[str, nn.Parameter] = {}
        self._gradients: dict[str, dict[str, Tensor]] = {}
        self._open: str | None = None
        self._trainable()

    def forget(self) -> AbstractContextManager[None]:
        """Return the block in which backward passes belong to the forget loss (one that is minimised)."""
        return self._block("forget")

    def retain(self) -> AbstractContextManager[None]:
        """Return the block in which backward passes belong to the retain loss."""
        return self._block("retain")

    def combine(self) -> Geometry:
        """Combine what the blocks collected and write the update to ``.grad``.

        Returns:
            The geometry of the whole model, and by group on request; it waits for the device only when read.

        Raises:
            RetainFirstError: Called inside a block, or without a backward pass for one of the tasks.
            StaleGradient: A backward pass ran outside the blocks.
            NonFiniteGradient: A gradient holds NaN or infinity and ``check_finite`` was asked for; the step is discarded, as it
                is after any error in the combination itself.
        """
        self._refuse_open("combine()")
        for task in _TASKS:
            if not self._gradients.get(task):
                raise RetainFirstError(
                    f"combine(): no {task} gradient was collected in this step; run loss.backward() inside `with step.{task}():`"
                )
        self._refuse_stale()
        forget, retain = (self._gradients[task] for task in _TASKS)
        parameters = self._active
        self.reset()
        names = [name for name in parameters if name in forget or name in retain]
        for name in names:
            if name not in retain:
                retain[name] = torch.zeros_like(forget[name])
            elif name not in forget:
                forget[name] = torch.zeros_like(retain[name])
            check_pair(self.combiner.name, name, forget[name], retain[name])
        geometry = self.combiner.combine_named_(
            [forget[name] for name in names], [retain[name] for name in names], self.combiner.group(names)
        )
        if self.check_finite:
            _check_finite(geometry, names)
        for name in names:
            parameters[name].grad = retain[name]
        return geometry

    def reset(self) -> None:
        """Discard what the blocks of the current step have collected."""
        self._active, self._gradients = {}, {}

    @contextmanager
    def _block(self, task: str) -> Iterator[None]:
        self._refuse_open(f"{task}()")
        if not self._active:
            self._active = self._trainable()
        self._refuse_stale()
        collected = self._gradients.setdefault(task, {})
        for name, gradient in collected.items():
            self._active[name].grad = gradient
        self._open = task
        try:
            yield
            self._collect(task, collected)
        except BaseException:
            self._clear()
            self.reset()
            raise
        finally:
            self._open = None

    def _collect(self, task: str, collected: dict[str, Tensor]) -> None:
        for name, parameter in self._active.items():
            before, found = collected.get(name), parameter.grad
            # Autograd adds to a gradient in place (unless it keeps a graph of it), so another tensor means a fresh start.
            if before is not None and found is not before and not (found is not None and found.requires_grad):
                raise StaleGradient(
                    f"{name}: its .grad was cleared inside `with step.{task}():`, which loses micro-batches of this step; call"
                    " zero_grad() and optimizer.step() only after combine()"
                )
            if found is not None:
                collected[name], parameter.grad = found, None

    def _clear(self) -> None:
        for parameter in self._active.values():
            parameter.grad = None

    def _refuse_open(self, call: str) -> None:
        if self._open is not None:
            raise RetainFirstError(f"{call} inside `with step.{self._open}():`; leave that block first")

    def _refuse_stale(self) -> None:
        for name, parameter in self._active.items():
            if parameter.grad is not None:
                self.reset()
                raise StaleGradient(
                    f"{name}: .grad is set outside the blocks of TwoTaskStep, so it would be lost or counted for the wrong task."
                    " Call optimizer.zero_grad(set_to_none=True) after optimizer.step(), and backward() only inside a block."
                    " The current step was discarded."
                )

    def _trainable(self) -> dict[str, nn.Parameter]:
        """Look up what is trained now: a model may be unfrozen, wrapped or given adapters between two steps."""
        if isinstance(self._source, nn.Module):
            _refuse_distributed(self._source)
            everything = dict(self._source.named_parameters())
        else:
            everything = self._source
        trainable = {name: p for name, p in everything.items() if p.requires_grad}
        if not trainable:
            raise RetainFirstError("TwoTaskStep: no parameter requires a gradient; unfreeze what is to be trained")
        for name, parameter in trainable.items():
            if hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id"):
                raise RetainFirstError(
                    f"{name}: sharded parameters (FSDP2, DeepSpeed) are not supported in this version"
                )
        return trainable


def _named(
    parameters: Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
) -> dict[str, nn.Parameter]:
    """Name parameters that came without names by their position; one that comes twice (tied weights) counts once."""
    wanted = "give a model, its parameters() or its named_parameters()"
    try:
        items = list(parameters)
    except TypeError as error:
        raise RetainFirstError(
            f"TwoTaskStep: {parameters!r} is neither a model nor a list of parameters; {wanted}"
        ) from error
    named: dict[str, nn.Parameter] = {}
    seen: set[nn.Parameter] = set()
    for i, item in enumerate(items):
        name, parameter = item if isinstance(item, tuple) and len(item) == 2 else (f"parameter{i}", item)
        if not isinstance(parameter, nn.Parameter):
            raise RetainFirstError(f"TwoTaskStep: {parameter!r} is not a parameter; {wanted}")
        if parameter in seen:
            continue
        if name in named:
            raise RetainFirstError(
                f"TwoTaskStep: two different parameters are named {name!r}; give each a name of its own"
            )
        seen.add(parameter)
        named[name] = parameter
    return named


def _refuse_distributed(model: nn.Module) -> None:
    kind = next((t.__name__ for t in type(model).__mro__ if t.__name__ in _WRAPPERS), None)
    if kind is not None:
        raise RetainFirstError(
            f"TwoTaskStep: {kind} averages or shards gradients by itself, which is not supported in this version; give the model"
            " on one device"
        )


def _check_finite(geometry: Geometry, names: list[str]) -> None:
    for i, tasks in geometry.not_finite().items():
        raise NonFiniteGradient(
            f"{names[i]}: the {' and the '.join(tasks)} gradient holds NaN or infinity; lower the learning rate, clip, or look"
            " at the loss. The step was discarded."
        )
