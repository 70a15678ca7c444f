"""Sharding over some processes and replicas over the others, each beside one process on all rows."""

from __future__ import annotations

from functools import cache, partial

from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import ShardingStrategy

import cases
from fsdp_cases import train
from retainfirst.engines import _fsdp
from wraps import shard1, shard2

NAMES = ("sago", "pcgrad tensor", "pcgrad global")


@cache
def mesh():
    return init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))


def fully_shard(name):
    return train(shard2, name, mesh=mesh())


def fsdp(strategy, name):
    return train(shard1, name, sharding_strategy=ShardingStrategy[strategy], device_mesh=mesh())


def over_all_processes(name):
    """Wrong: replicas hold the same parts, and each part would count as often as there are replicas."""
    group = _fsdp._sharding_group
    _fsdp._sharding_group = lambda parameters: group(parameters) and None
    try:
        return fully_shard(name)
    finally:
        _fsdp._sharding_group = group


CASES = {
    **{f"equal, fully_shard, {name}": partial(fully_shard, name) for name in NAMES},
    **{
        f"equal, {strategy}, {name}": partial(fsdp, strategy, name)
        for strategy in ("HYBRID_SHARD", "_HYBRID_SHARD_ZERO2")
        for name in NAMES
    },
    "refused, one shard": lambda: cases.refusal(partial(fsdp, "HYBRID_SHARD", "sago")),
    "wrong, over all processes": partial(over_all_processes, "pcgrad global"),
}

if __name__ == "__main__":
    cases.main(CASES)
