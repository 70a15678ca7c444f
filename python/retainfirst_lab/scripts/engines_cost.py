"""Each process of ``retainfirst_lab.scripts.engines`` runs this: traffic and peak memory of one engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import retainfirst as rf

WIDTH, LAYERS, ROWS, MICRO_BATCHES = 1600, 8, 8, 4


class Traffic(TorchDispatchMode):
    """Adds up the bytes that are handed to collective calls: what is sent in, or what comes out if that is more."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.namespace == "c10d":
            sizes = [sum(t.nbytes for t in tensors(argument)) for argument in arguments]
            self.bytes += max(sizes)
        return function(*arguments, **(options or {}))


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for one in value for t in tensors(one)] if isinstance(value, list | tuple) else []


def main(engine: str, rule: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = wrap(engine, nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))))
    step = plain(engine, model) if rule == "plain" else two_tasks(model, rule)
    before = resident("VmRSS")
    step()
    model.zero_grad()
    with Traffic() as traffic:
        step()
    found = {"bytes": traffic.bytes, "peak": resident("VmHWM") - before, "set": 4 * LAYERS * WIDTH**2}
    (Path(sys.argv[1]) / f"result{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def wrap(engine: str, model: nn.Sequential) -> nn.Module:
    if engine == "DDP":
        return DistributedDataParallel(model)
    if engine == "FSDP":
        each = lambda module, recurse, **_: recurse or isinstance(module, nn.Linear)  # noqa: E731
        cpu = torch.device("cpu")
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=cpu, auto_wrap_policy=each)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def loss(model: nn.Module) -> torch.Tensor:
    return model(torch.ones(ROWS, WIDTH)).square().mean()


def plain(engine: str, model: nn.Module):
    """Plain addition of the two losses; with DDP averaging in the last micro-batch only, as is usual."""

    def step() -> None:
        for micro in range(MICRO_BATCHES):
            if engine == "DDP":
                model.require_backward_grad_sync = micro == MICRO_BATCHES - 1
            (loss(model) - 0.5 * loss(model)).backward()

    return step


def two_tasks(model: nn.Module, rule: str):
    two = rf.TwoTaskStep(model, rule)

    def step() -> None:
        for micro in range(MICRO_BATCHES):
            last = micro == MICRO_BATCHES - 1
            with two.forget(last=last):
                (-0.5 * loss(model)).backward()
            with two.retain(last=last):
                loss(model).backward()
        two.combine()

    return step


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(*sys.argv[2:])
