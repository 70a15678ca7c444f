"""torch's FSDP, both versions: every process holds a shard of each parameter, and torch averages gradients as it shards them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from retainfirst.engines._local import Engine, Gradients
from retainfirst.engines._tables import over_processes
from retainfirst.errors import RetainFirstError

__all__ = ["FSDP1Engine", "FSDP2Engine"]

_SHARDED = ("FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD", "_HYBRID_SHARD_ZERO2")


class FSDP2Engine(Engine):
    """The model's parameters are sharded by ``fully_shard``.

    Gradients live in ``.grad`` as DTensors, each process holding its shard, averaged. ``fully_shard`` averages in each backward
    pass and adds to the shard in ``.grad``. A block never defers that to the last microbatch, which would mix the two tasks. The
    combination works on the local shards.

    Bytes sent: those of two backward passes of ``fully_shard``, for each microbatch. Projections send one table of 88 bytes a
    group and process more; element-wise combiners nothing.

    Args:
        parameters: What is trained, by name.
        modules: The modules that ``fully_shard`` was applied to.

    Raises:
        RetainFirstError: Parameters that are not sharded, or not all in the same way over one dimension of processes.
    """

    values_stay = False

    def __init__(self, parameters: dict[str, nn.Parameter], modules: Sequence[Any]) -> None:
        super().__init__(parameters)
        if not modules:
            raise RetainFirstError(
                "TwoTaskStep: the parameters are DTensors, but fully_shard was applied to no module; tensor parallelism alone is"
                " not supported"
            )
        self._modules = modules
        self.reduce = over_processes(_sharding_group(parameters))

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Return the context in which every backward pass averages."""
        for module in self._modules:
            module.set_requires_gradient_sync(True, recurse=False)
            module.set_requires_all_reduce(True, recurse=False)
            module.set_is_last_backward(True)
        yield

    def average(self, gradients: Gradients) -> Callable[[], Gradients]:
        """See :meth:`Engine.average`: torch has averaged already."""
        sharded: dict[str, Any] = dict(gradients)
        return lambda: {name: gradient.to_local() for name, gradient in sharded.items()}

    def write(self, update: Gradients) -> None:
        """See :meth:`Engine.write`."""
        for name, local in update.items():
            parameter: Any = self.parameters[name]
            parameter.grad = type(parameter.data).from_local(
                local,
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )


class FSDP1Engine(Engine):
    """The model is in ``FullyShardedDataParallel`` with ``use_orig_params=True``.

    Gradients live in ``.grad``, averaged; each process holds its part of the flattened parameters, and ``.grad`` is None for a
    parameter of which it holds nothing. FSDP averages in each backward pass, since ``no_sync`` would mix the two tasks. After
    each block its gradients are taken out and added to the task's own.

    Every parameter has a gradient, zero if no pass has reached it, since parameters flattened together share one.

    Bytes sent: those of two backward passes of FSDP, for each microbatch. Projections send one table of 88 bytes a group and
    process more; element-wise combiners nothing.

    Args:
        parameters: What is trained, by name.
        modules: The wrappers.

    Raises:
        RetainFirstError: ``use_orig_params=False``, a strategy that does not shard, or trained parameters that FSDP ignores.
    """

    values_stay = False

    def __init__(self, parameters: dict[str, nn.Parameter], modules: Sequence[Any]) -> None:
        super().__init__(parameters)
        self._modules = modules
        groups = set()
        for module in modules:
            if not module._use_orig_params:
                raise RetainFirstError(
                    "TwoTaskStep: FullyShardedDataParallel keeps no single parameters with use_orig_params=False; set it to True"
                )
            if module.sharding_strategy.name not in _SHARDED:
                raise RetainFirstError(
                    f"TwoTaskStep: FullyShardedDataParallel with {module.sharding_strategy.name} is not supported; shard, or use"
                    " DistributedDataParallel"
                )
            for name, parameter in parameters.items():
                if parameter in module._ignored_params:
                    raise RetainFirstError(
                        f"TwoTaskStep: {name} is trained, but FullyShardedDataParallel ignores it, so nothing averages its"
                        " gradient; freeze it, or take it out of ignored_states"
                    )
            groups.add(module.process_group)
        if len(groups) > 1:
            raise RetainFirstError(
                "TwoTaskStep: the FullyShardedDataParallel wrappers shard over different processes; use one group"
            )
        self.reduce = over_processes(groups.pop())

    @contextmanager
    def block(self, task: str, collected: Gradients) -> Iterator[None]:
        """See :meth:`Engine.block`."""
        found: Gradients = {}
        with super().block(task, found):
            yield
        for name, gradient in found.items():
            if name in collected:
                collected[name] += gradient
            else:
                collected[name] = gradient

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Return the context in which every backward pass averages, also inside FSDP's ``no_sync``, which accelerate enters."""
        before = [module._sync_gradients for module in self._modules]
        for module in self._modules:
            module._sync_gradients = True
        try:
            yield
        finally:
            for module, sync in zip(self._modules, before, strict=True):
                module._sync_gradients = sync

    def average(self, gradients: Gradients) -> Callable[[], Gradients]:
        """See :meth:`Engine.average`: FSDP has averaged; a parameter of which this process holds nothing has an empty shard."""
        return lambda: (
            {name: gradients.get(name, p.new_empty(0)) for name, p in self.parameters.items()} if gradients else {}
        )

    def write(self, update: Gradients) -> None:
        """See :meth:`Engine.write`."""
        super().write({name: gradient for name, gradient in update.items() if gradient.numel()})


def _sharding_group(parameters: dict[str, nn.Parameter]) -> Any:
    """Return the process group over which all parameters are sharded."""
    first: Any = next(iter(parameters.values()))
    for name, parameter in parameters.items():
        mesh, placements = getattr(parameter, "device_mesh", None), getattr(parameter, "placements", ())
        sharded = [i for i, placement in enumerate(placements) if not placement.is_replicate()]
        if mesh is None or mesh != first.device_mesh or len(sharded) != 1 or placements != first.placements:
            how = f"{placements} over {mesh}" if mesh is not None else "not at all"
            raise RetainFirstError(
                f"TwoTaskStep: {name} is sharded {how}; what is trained must be sharded by fully_shard in one way, over one"
                " dimension of one mesh (apply it to the whole model last; tensor parallelism is not supported)"
            )
    return first.device_mesh.get_group(sharded[0])
