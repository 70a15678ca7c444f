"""Find the engine that a model or a list of parameters needs."""

from __future__ import annotations

import sys
import warnings
from typing import Any, cast

from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from retainfirst.engines._ddp import DDPEngine
from retainfirst.engines._deepspeed import ZeroEngine
from retainfirst.engines._fsdp import FSDP1Engine, FSDP2Engine
from retainfirst.engines._local import Engine
from retainfirst.engines._wrappers import engines_around, sharded_modules, wrappers_around
from retainfirst.errors import RetainFirstError

__all__ = ["find_engine", "named_parameters"]

# Where these classes are once their libraries are loaded. torch 2.4 and 2.5 have fully_shard elsewhere than later versions.
_ZERO = ("DeepSpeedEngine", "deepspeed.runtime.engine")
_FSDP1 = ("FullyShardedDataParallel", "torch.distributed.fsdp")
_FSDP2 = ("FSDPModule", "torch.distributed.fsdp", "torch.distributed._composable.fsdp")

# Attributes that ZeRO sets on parameters: stage 3, and stages 1 and 2.
_OF_ZERO = ("ds_id", "_hp_mapping")


def find_engine(model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> Engine:
    """Return the engine for a model.

    Args:
        model: The model, wrapped or not; None if only its parameters are known.
        parameters: What is trained, by name.

    Raises:
        RetainFirstError: The model is distributed in an unsupported way, or DeepSpeed trains it and its engine is not given.
    """
    engines = _inside(_loaded(*_ZERO), model) or engines_around(_loaded(*_ZERO), model)
    if len(engines) > 1:
        raise RetainFirstError(f"TwoTaskStep: the model holds {len(engines)} DeepSpeed engines; give it one")
    if engines:
        return ZeroEngine(parameters, engines[0])
    if any(hasattr(p, mark) for p in parameters.values() for mark in _OF_ZERO):
        raise RetainFirstError(
            "TwoTaskStep: DeepSpeed's ZeRO holds these parameters; give the engine that deepspeed.initialize (or accelerate)"
            " returned, not the model inside it"
        )
    if any(hasattr(p, "device_mesh") for p in parameters.values()):
        return FSDP2Engine(parameters, _inside(_loaded(*_FSDP2), model) or sharded_modules(parameters))
    if wrappers := _holding(_loaded(*_FSDP1), model, parameters):
        return FSDP1Engine(parameters, wrappers)
    if wrappers := _holding(DistributedDataParallel, model, parameters):
        return DDPEngine(parameters, wrappers)
    if _several_processes():
        warnings.warn(
            f"retainfirst: {dist.get_world_size()} processes run, but no wrapper of this model is known, so its gradients are not"
            " averaged over them; give TwoTaskStep the wrapped model",
            stacklevel=3,
        )
    return Engine(parameters)


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's parameters by the names that they have on one device, sharded where they are."""
    for module in _inside(_loaded(*_FSDP2), model):
        # After a forward pass without a backward pass, fully_shard may show whole parameters.
        module.reshard()
    wrapped = isinstance(model, (DistributedDataParallel, _loaded(*_ZERO)))
    inside = cast(nn.Module, model.module) if wrapped else model
    return {name.replace("_fsdp_wrapped_module.", ""): parameter for name, parameter in inside.named_parameters()}


def _inside(kind: type, model: nn.Module | None) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)] if model is not None else []


def _holding(kind: type, model: nn.Module | None, parameters: dict[str, nn.Parameter]) -> list[Any]:
    """Return the wrappers of a kind in the model, or else around it."""
    return _inside(kind, model) or (wrappers_around(kind, parameters) if _several_processes() else [])


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _loaded(name: str, *modules: str) -> type:
    """Return a class of a library that is loaded; else a class without instances."""
    for module in modules:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            return kind
    return _Nothing


class _Nothing:
    """Stands for the class of a library that is not loaded."""
