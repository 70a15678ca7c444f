"""Narrow formats, loss scaling and broken gradients on several processes."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import distributed as dist
from torch.distributed.fsdp import MixedPrecision

import cases
import retainfirst as rf
from setting import MICRO_BATCHES, STEPS, Data, make_model, make_optimizer, on_one_process, rule
from wraps import WRAPS, MixedPrecisionPolicy, whole

NARROW = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}


def collect(step, model, data, i, spoil=None, scale=None, autocast=False):
    rank = dist.get_rank()
    for micro in range(MICRO_BATCHES):
        for task in ("forget", "retain"):
            with getattr(step, task)():
                with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                    loss = data.loss(model, i, micro, task, rank)
                loss = scale(loss) if scale else loss
                (loss * torch.inf if (micro, task, rank) == spoil else loss).backward()


def train(wrap, name, *, dtype=torch.float32, autocast=False, **options):
    """How far from float32 on one process the steps went, over how far they went; and whether the processes agree."""
    data = Data(dist.get_world_size(), rare=None)
    start, (end, _) = make_model(torch.float32), on_one_process(data, name, torch.float32, clip=torch.inf)
    model = WRAPS[wrap](make_model(dtype), **options)
    step, optimizer = rf.TwoTaskStep(model, rule(name)), make_optimizer(model)
    for i in range(STEPS):
        collect(step, model, data, i, autocast=autocast)
        step.combine()
        optimizer.step()
        optimizer.zero_grad()
    found = whole(model)
    flat = [torch.cat([p[key].detach().float().reshape(-1) for key in found]) for p in (
        found, dict(end.named_parameters()), dict(start.named_parameters()))]  # fmt: skip
    everyone = [torch.empty_like(flat[0]) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, flat[0])
    error = (flat[0] - flat[1]).norm() / (flat[1] - flat[2]).norm()
    return {"error": error.item(), "agree": all(torch.equal(one, flat[0]) for one in everyone)}


def scaled(wrap, task):
    """Infinity in one task's gradient, on one process, in one micro-batch: no process steps, and each lowers its scale."""
    model, data = WRAPS[wrap](make_model(torch.float32)), Data(dist.get_world_size(), rare=None)
    step, optimizer, scaler = rf.TwoTaskStep(model, "sago"), make_optimizer(model), torch.amp.GradScaler("cpu", 1024.0)
    before, scales, moved = whole(model), [], []
    for spoil in ((1, task, dist.get_world_size() - 1), None):
        collect(step, model, data, 0, spoil, scaler.scale)
        step.combine()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scales.append(scaler.get_scale())
        moved.append(any(not torch.equal(before[name], p) for name, p in whole(model).items()))
    return {"scales": scales, "moved": moved}


def broken(wrap, task):
    model, data = WRAPS[wrap](make_model(torch.float32)), Data(dist.get_world_size(), rare=None)
    step = rf.TwoTaskStep(model, "pcgrad", scope="global", check_finite=True)
    collect(step, model, data, 0, (1, task, dist.get_world_size() - 1))
    try:
        step.combine()
    except rf.NonFiniteGradient as error:
        return {"refused": str(error), "left": [name for name, p in model.named_parameters() if p.grad is not None]}
    return {}


CASES = {
    **{
        f"near, {wrap}, {mode}": partial(train, wrap, "sago", **options)
        for wrap in WRAPS
        for mode, options in {"bfloat16": {"dtype": torch.bfloat16}, "autocast": {"autocast": True}}.items()
    },
    "near, FSDP, its mixed precision": partial(train, "FSDP", "sago", mixed_precision=MixedPrecision(**NARROW)),
    "near, fully_shard, its mixed precision": partial(
        train, "fully_shard", "pcgrad module", mp_policy=MixedPrecisionPolicy(**NARROW)
    ),
    **{
        f"scaled, {wrap}, {task}": partial(scaled, wrap, task)
        for wrap in ("DDP", "fully_shard")
        for task in ("forget", "retain")
    },
    **{f"broken, {wrap}, {task}": partial(broken, wrap, task) for wrap in WRAPS for task in ("forget", "retain")},
}

if __name__ == "__main__":
    cases.main(CASES)
