"""Which engine a model or a list of parameters needs, by what they are."""

from __future__ import annotations

import gc

from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from retainfirst.engines._ddp import DDPEngine
from retainfirst.engines._local import Engine
from retainfirst.errors import RetainFirstError

__all__ = ["find_engine", "unwrapped"]

_UNSUPPORTED = ("FullyShardedDataParallel", "DeepSpeedEngine")


def find_engine(model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> Engine:
    """Return the engine for what is trained.

    Args:
        model: The model, wrapped or not; None if only its parameters are known.
        parameters: What is trained, by name.

    Raises:
        RetainFirstError: The model is distributed in a way that is not supported.
    """
    for module in model.modules() if model is not None else ():
        kind = next((t.__name__ for t in type(module).__mro__ if t.__name__ in _UNSUPPORTED), None)
        if kind is not None:
            raise RetainFirstError(f"TwoTaskStep: {kind} is not supported in this version; use DistributedDataParallel")
    for name, parameter in parameters.items():
        if hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id"):
            raise RetainFirstError(
                f"TwoTaskStep: {name} is sharded (FSDP2, tensor parallelism, DeepSpeed), which is not supported in this version;"
                " use DistributedDataParallel"
            )
    wrappers = _wrappers(model, parameters)
    return DDPEngine(parameters, wrappers) if wrappers else Engine(parameters)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a wrapper, whose parameters have the names that they have on one device."""
    inside: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inside


def _wrappers(model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> list[DistributedDataParallel]:
    """Return what wraps the parameters: in the model itself, or else around it, where only the garbage collector sees it."""
    inside = [m for m in model.modules() if isinstance(m, DistributedDataParallel)] if model is not None else []
    if inside or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return inside
    trained = set(parameters.values())
    # By type, not isinstance, which asks some objects for their __class__ and may run code of theirs.
    around = [one for one in gc.get_objects() if issubclass(type(one), DistributedDataParallel)]
    return [wrapper for wrapper in around if not trained.isdisjoint(wrapper.parameters())]
