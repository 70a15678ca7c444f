"""Which engine a model or a list of parameters needs, by what they are."""

from __future__ import annotations

import gc
import sys
from typing import Any, cast

from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from retainfirst.engines._ddp import DDPEngine
from retainfirst.engines._deepspeed import ZeroEngine
from retainfirst.engines._fsdp import FSDP1Engine, FSDP2Engine
from retainfirst.engines._local import Engine
from retainfirst.errors import RetainFirstError

__all__ = ["find_engine", "named_parameters"]

# Where these classes are if their libraries are loaded. torch 2.4 and 2.5 have fully_shard elsewhere than later versions.
_ZERO = ("DeepSpeedEngine", "deepspeed.runtime.engine")
_FSDP1 = ("FullyShardedDataParallel", "torch.distributed.fsdp")
_FSDP2 = ("FSDPModule", "torch.distributed.fsdp", "torch.distributed._composable.fsdp")


def find_engine(model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> Engine:
    """Return the engine for what is trained.

    Args:
        model: The model, wrapped or not; None if only its parameters are known.
        parameters: What is trained, by name.

    Raises:
        RetainFirstError: The model is distributed in a way that is not supported.
    """
    engines = _holding(_loaded(*_ZERO), model, parameters)
    if len(engines) > 1 or (not engines and any(hasattr(p, "ds_id") for p in parameters.values())):
        raise RetainFirstError(
            f"TwoTaskStep: the parameters are in {len(engines)} DeepSpeed engines; give it their engine"
        )
    if engines:
        return ZeroEngine(parameters, engines[0])
    if any(hasattr(p, "device_mesh") for p in parameters.values()):
        return FSDP2Engine(parameters, _holding(_loaded(*_FSDP2), model, parameters))
    if wrappers := _holding(_loaded(*_FSDP1), model, parameters):
        return FSDP1Engine(parameters, wrappers)
    if wrappers := _holding(DistributedDataParallel, model, parameters):
        return DDPEngine(parameters, wrappers)
    return Engine(parameters)


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's parameters by the names that they have on one device, sharded where they are."""
    for module in _holding(_loaded(*_FSDP2), model, {}):
        # After a forward pass without a backward pass, fully_shard may show whole parameters.
        module.reshard()
    wrapped = isinstance(model, (DistributedDataParallel, _loaded(*_ZERO)))
    inside = cast(nn.Module, model.module) if wrapped else model
    return {name.replace("_fsdp_wrapped_module.", ""): parameter for name, parameter in inside.named_parameters()}


def _holding(kind: type, model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> list[Any]:
    """Return what wraps the parameters: in the model itself, or else around it, where only the garbage collector sees it."""
    inside = [module for module in model.modules() if isinstance(module, kind)] if model is not None else []
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if inside or not parameters or not several or kind is _Nothing:
        return inside
    trained = set(parameters.values())
    # By type, not isinstance, which asks some objects for their __class__ and may run code of theirs.
    around: list[Any] = [one for one in gc.get_objects() if issubclass(type(one), kind)]
    return [wrapper for wrapper in around if not trained.isdisjoint(wrapper.parameters())]


def _loaded(name: str, *modules: str) -> type:
    """Return a class of a library if that is loaded; else one that has no instances."""
    for module in modules:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            return kind
    return _Nothing


class _Nothing:
    """Stands for the class of a library that is not loaded."""
