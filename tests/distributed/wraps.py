"""How torch distributes a model, applied to the tests' models, and the whole parameters back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

try:
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
except ImportError:  # torch 2.4 and 2.5
    from torch.distributed._composable.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

__all__ = ["WRAPS", "FSDPModule", "MixedPrecisionPolicy", "fully_shard", "shard1", "shard2", "whole"]


def _device(inner: nn.Module) -> torch.device:
    return next(inner.parameters()).device


def shard2(inner, **options):
    options["mesh"] = options.get("mesh") or init_device_mesh(_device(inner).type, (dist.get_world_size(),))
    for layer in inner.layers:
        fully_shard(layer, **options)
    return fully_shard(inner, **options)


def shard1(inner, **options):
    layers = set(inner.layers)
    return FullyShardedDataParallel(
        inner, use_orig_params=True, auto_wrap_policy=lambda module, recurse, **_: recurse or module in layers,
        device_id=_device(inner), **options,
    )  # fmt: skip


WRAPS = {"DDP": DistributedDataParallel, "FSDP": shard1, "fully_shard": shard2}


def whole(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters, by the names that they have without a wrapper."""
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            return {name: p.detach().clone() for name, p in model.named_parameters()}
    inside = model.module if isinstance(model, DistributedDataParallel) else model
    parameters = {name: p.detach() for name, p in inside.named_parameters()}
    return {name: (p.full_tensor() if hasattr(p, "full_tensor") else p).clone() for name, p in parameters.items()}
