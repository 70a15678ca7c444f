"""Distributed wrappers of a model that is given without them: the model inside the wrapper, or its parameters.

``DistributedDataParallel`` and ``FullyShardedDataParallel`` register the model as their submodule, and torch reports each
registration to a hook, which keeps a weak reference. It sees the wrappers that are made after this module was imported.
``fully_shard`` enters its modules in a table of torch, and a ``DeepSpeedEngine`` puts hooks on its model.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any
from weakref import WeakSet

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

__all__ = ["engines_around", "sharded_modules", "wrappers_around"]

# The attributes under which DistributedDataParallel and FullyShardedDataParallel hold a model.
_HELD_AS = ("module", "_fsdp_wrapped_module")

_seen: WeakSet[nn.Module] = WeakSet()


def _note(holder: nn.Module, name: str, _held: nn.Module | None) -> None:
    if name in _HELD_AS:
        _seen.add(holder)


register_module_module_registration_hook(_note)


def wrappers_around(kind: type, parameters: dict[str, nn.Parameter]) -> list[Any]:
    """Return the wrappers of a kind that hold some of these parameters.

    Args:
        kind: A class of wrappers.
        parameters: What is trained, by name.
    """
    trained = set(parameters.values())
    found: list[Any] = [one for one in _seen if isinstance(one, kind)]
    return [wrapper for wrapper in found if not trained.isdisjoint(wrapper.parameters())]


def sharded_modules(parameters: dict[str, nn.Parameter]) -> list[Any]:
    """Return the modules with some of these parameters to which ``fully_shard`` was applied.

    Args:
        parameters: What is trained, by name.
    """
    trained = set(parameters.values())
    table = getattr(sys.modules.get("torch.distributed._composable_state"), "_module_state_mapping", {})
    found: list[Any] = [module for module in table if hasattr(module, "set_requires_gradient_sync")]
    return [module for module in found if not trained.isdisjoint(module.parameters())]


def engines_around(kind: type, model: nn.Module | None) -> list[Any]:
    """Return the DeepSpeed engines that hold a model, which the model's forward hooks refer to.

    Args:
        kind: DeepSpeed's class of engines.
        model: The model inside the engine; None if only its parameters are known.
    """
    hooks = [*model._forward_pre_hooks.values(), *model._forward_hooks.values()] if model is not None else []
    owners = [getattr(hook, "__self__", None) for hook in hooks]
    owners += [inspect.getclosurevars(hook).nonlocals.get("self") for hook in hooks if inspect.isfunction(hook)]
    return list(dict.fromkeys(owner for owner in owners if isinstance(owner, kind)))
