"""FSDP, both versions, each beside one process on all rows."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel

import cases
import retainfirst as rf
from retainfirst.engines import _fsdp
from setting import CLIP, MICRO_BATCHES, RULES, STEPS, Data, distance, make_model, make_optimizer, on_one_process, rule
from wraps import fully_shard, shard1, shard2, whole


def put_off(model, last):
    """As accelerate does for all micro-batches but the last."""
    if isinstance(model, FullyShardedDataParallel):
        return nullcontext() if last else model.no_sync()
    model.set_requires_gradient_sync(last)
    return nullcontext()


def train(
    shard,
    name,
    *,
    given="model",
    deferred=False,
    evaluate=False,
    offload=None,
    enforce=False,
    make=make_model,
    **options,
):
    rank, data = dist.get_rank(), Data(dist.get_world_size(), rare=None)
    # FSDP's own clipping takes nothing wider than float32.
    clip = CLIP if shard is shard2 else math.inf
    expected, geometries = on_one_process(data, name, clip=clip, make=make, enforce=enforce)
    model = shard(make(torch.float64), **options)
    source = {"model": model, "parameters": [*model.parameters()], "named": [*model.named_parameters()]}[given]
    step, optimizer, found = rf.TwoTaskStep(source, rule(name), offload=offload), make_optimizer(model), []
    guard = step.guard(optimizer, enforce=True) if enforce else None
    for i in range(STEPS):
        if evaluate:
            with torch.no_grad():
                data.loss(model, i, 0, "retain", rank)
        for micro in range(MICRO_BATCHES):
            with put_off(model, not deferred or micro == MICRO_BATCHES - 1):
                for task in ("forget", "retain"):
                    with getattr(step, task)():
                        data.loss(model, i, micro, task, rank).backward()
        found.append(step.combine().all_reduce().as_dict())
        if clip < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        if guard is not None:
            found[-1] = guard.geometry.all_reduce().as_dict()
    # FSDP 1 counts what no pass reaches as coordinates, so the share of conflicting ones is another.
    keys = [key for key in geometries[0] if shard is shard2 or key != "conflict_fraction"]
    geometry = max(abs(a[key] - b[key]) for a, b in zip(found, geometries, strict=True) for key in keys)
    return {"error": distance(whole(model), dict(expected.named_parameters())), "geometry": geometry}


def deferred_and_interleaved(name):
    """Wrong: what both tasks leave is averaged together in the last backward pass."""
    passes = _fsdp.FSDP2Engine.passes
    _fsdp.FSDP2Engine.passes = lambda self: nullcontext()
    try:
        return train(shard2, name, deferred=True)
    finally:
        _fsdp.FSDP2Engine.passes = passes


def offloaded(shard, name):
    with cases.moving_on_the_cpu():
        return train(shard, name, offload="cpu")


def collectives(shard, name):
    """How many collective calls a combination makes."""
    model, data, calls = shard(make_model()), Data(dist.get_world_size(), rare=None), []
    step = rf.TwoTaskStep(model, rule(name))
    for task in ("forget", "retain"):
        with getattr(step, task)():
            data.loss(model, 0, 0, task, dist.get_rank()).backward()
    before = {key: getattr(dist, key) for key in ("all_reduce", "all_gather_into_tensor", "broadcast", "all_gather")}

    def counted(call):
        return lambda *arguments, **options: calls.append(call) or before[call](*arguments, **options)

    for key in before:
        setattr(dist, key, counted(key))
    try:
        step.combine()
    finally:
        for key, call in before.items():
            setattr(dist, key, call)
    return {"calls": calls}


def streamed():
    rf.TwoTaskStep(shard2(make_model()), stream=True)


def one_layer_only():
    model = make_model()
    fully_shard(model.layers[0], mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    rf.TwoTaskStep(model)


CASES = {
    **{f"equal, fully_shard, {name}": partial(train, shard2, name) for name in RULES},
    "equal, fully_shard, parameters": partial(train, shard2, "sago", given="parameters"),
    "equal, fully_shard, named": partial(train, shard2, "sago", given="named"),
    "equal, fully_shard, deferred": partial(train, shard2, "sago", deferred=True),
    "equal, fully_shard, evaluation": partial(train, shard2, "sago", evaluate=True),
    "equal, fully_shard, kept whole": partial(train, shard2, "sago", evaluate=True, reshard_after_forward=False),
    "equal, fully_shard, offloaded": partial(offloaded, shard2, "pcgrad global"),
    **{f"equal, FSDP, {name}": partial(train, shard1, name) for name in RULES},
    "equal, FSDP, offloaded": partial(offloaded, shard1, "pcgrad global"),
    "equal, FSDP, parameters": partial(train, shard1, "sago", given="parameters"),
    "equal, FSDP, deferred": partial(train, shard1, "sago", deferred=True),
    "equal, FSDP, evaluation": partial(train, shard1, "sago", evaluate=True),
    **{
        f"equal, {how.__name__}, guard, {name}": partial(train, how, name, enforce=True)
        for how in (shard1, shard2)
        for name in ("sago", "pcgrad global")
    },
    "wrong, deferred and interleaved": partial(deferred_and_interleaved, "sago"),
    **{
        f"calls, {how.__name__}, {name}": partial(collectives, how, name)
        for how in (shard1, shard2)
        for name in ("sago", "pcgrad tensor")
    },
    "refused, use_orig_params": lambda: cases.refusal(
        lambda: rf.TwoTaskStep(FullyShardedDataParallel(nn.Linear(3, 3), device_id=torch.device("cpu")))
    ),
    "refused, not sharded": lambda: cases.refusal(one_layer_only),
    "refused, streaming": lambda: cases.refusal(streamed),
}

if __name__ == "__main__":
    cases.main(CASES)
