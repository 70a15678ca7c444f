"""Traffic and peak memory of an engine in a training step, with plain addition or with two tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import retainfirst as rf
from retainfirst_lab.bench.machine import resident
from retainfirst_lab.bench.memory import GIVE_BACK

__all__ = ["ENGINES", "measure"]

ENGINES = ("DDP", "FSDP", "fully_shard")
WIDTH, LAYERS, ROWS, MICRO_BATCHES = 1600, 8, 8, 4
GRADIENT_SET = 4 * LAYERS * WIDTH**2


def measure(engine: str, method: str, processes: int = 2) -> dict[str, float]:
    """Measure in new processes.

    Args:
        engine: One of :data:`ENGINES`.
        method: ``"plain"``, or a combiner's name.
        processes: How many.

    Returns:
        ``traffic``, the bytes that a process gives to collective calls in a step, and ``peak``, its memory above what it holds
        between steps. Both are in gradient sets of the whole model; the largest process counts.
    """
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, start_method="spawn", run_id=uuid4().hex,
    )  # fmt: skip
    with _environment(GIVE_BACK):
        ranks: Mapping[int, dict[str, float]] = elastic_launch(config, _in_a_process)(engine, method)
    return {name: max(found[name] for found in ranks.values()) / GRADIENT_SET for name in ("traffic", "peak")}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of collective calls: of each call its input or its output, whichever is larger."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            self.bytes += max(sum(tensor.nbytes for tensor in _tensors(value)) for value in args)
        return function(*args, **(kwargs or {}))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for one in value for tensor in _tensors(one)] if isinstance(value, list | tuple) else []


def _in_a_process(engine: str, method: str) -> dict[str, float]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = _wrap(engine, nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))))
    step = _plain(model) if method == "plain" else _two_tasks(model, method)
    before = resident("VmRSS")
    step()
    model.zero_grad()
    with _Traffic() as traffic:
        step()
    found = {"traffic": float(traffic.bytes), "peak": float(resident("VmHWM") - before)}
    dist.destroy_process_group()
    return found


def _wrap(engine: str, model: nn.Sequential) -> nn.Module:
    if engine == "DDP":
        return DistributedDataParallel(model)
    if engine == "FSDP":

        def policy(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
            del nonwrapped_numel
            return recurse or isinstance(module, nn.Linear)

        cpu = torch.device("cpu")
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=cpu, auto_wrap_policy=policy)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _loss(model: nn.Module) -> Tensor:
    found: Tensor = model(torch.ones(ROWS, WIDTH)).square().mean()
    return found


def _plain(model: nn.Module) -> Callable[[], None]:
    """Plain addition of the two losses. DDP averages in the last microbatch only, as is usual."""

    def step() -> None:
        for micro in range(MICRO_BATCHES):
            if isinstance(model, DistributedDataParallel):
                model.require_backward_grad_sync = micro == MICRO_BATCHES - 1
            (_loss(model) - 0.5 * _loss(model)).backward()  # type: ignore[no-untyped-call]

    return step


def _two_tasks(model: nn.Module, combiner: str) -> Callable[[], None]:
    two = rf.TwoTaskStep(model, combiner)

    def step() -> None:
        for micro in range(MICRO_BATCHES):
            last = micro == MICRO_BATCHES - 1
            with two.forget(last=last):
                (-0.5 * _loss(model)).backward()  # type: ignore[no-untyped-call]
            with two.retain(last=last):
                _loss(model).backward()  # type: ignore[no-untyped-call]
        two.combine()

    return step
