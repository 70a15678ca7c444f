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
from retainfirst.engines._local import Engine
from retainfirst.errors import RetainFirstError

__all__ = ["find_engine", "unwrapped"]


def find_engine(model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> Engine:
    """Return the engine for what is trained.

    Args:
        model: The model, wrapped or not; None if only its parameters are known.
        parameters: What is trained, by name.

    Raises:
        RetainFirstError: The model is distributed in a way that is not supported.
    """
    deepspeed = _deepspeed()
    if deepspeed is not None:
        engines = _holding(deepspeed, model, parameters)
        if len(engines) > 1:
            raise RetainFirstError("TwoTaskStep: the parameters are in several DeepSpeed engines; give it the engine")
        if engines:
            return ZeroEngine(parameters, engines[0])
    _refuse_unsupported(model, parameters)
    wrappers = _holding(DistributedDataParallel, model, parameters)
    return DDPEngine(parameters, wrappers) if wrappers else Engine(parameters)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a wrapper, whose parameters have the names that they have on one device."""
    deepspeed = _deepspeed()
    wrapped = isinstance(model, DistributedDataParallel) or (deepspeed is not None and isinstance(model, deepspeed))
    return cast(nn.Module, model.module) if wrapped else model


def _holding(kind: type, model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> list[Any]:
    """Return what wraps the parameters: in the model itself, or else around it, where only the garbage collector sees it."""
    inside = [module for module in model.modules() if isinstance(module, kind)] if model is not None else []
    if inside or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return inside
    trained = set(parameters.values())
    # By type, not isinstance, which asks some objects for their __class__ and may run code of theirs.
    around: list[Any] = [one for one in gc.get_objects() if issubclass(type(one), kind)]
    return [wrapper for wrapper in around if not trained.isdisjoint(wrapper.module.parameters())]


def _deepspeed() -> type | None:
    """Return the class of DeepSpeed's engines, if DeepSpeed is loaded at all."""
    module = sys.modules.get("deepspeed.runtime.engine")
    return getattr(module, "DeepSpeedEngine", None)


def _refuse_unsupported(model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> None:
    for module in model.modules() if model is not None else ():
        if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__):
            raise RetainFirstError(
                "TwoTaskStep: FullyShardedDataParallel is not supported in this version; use DistributedDataParallel or DeepSpeed"
            )
    for name, parameter in parameters.items():
        if hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id"):
            raise RetainFirstError(
                f"TwoTaskStep: {name} is sharded (FSDP2, tensor parallelism, or DeepSpeed without its engine), which is not"
                " supported in this version; use DistributedDataParallel, or give the DeepSpeed engine"
            )
