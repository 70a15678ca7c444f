"""DistributedDataParallel in all its settings, each beside one process on all rows."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

import cases
import retainfirst as rf
from retainfirst.engines import _ddp
from setting import CLIP, MICRO_BATCHES, RULES, STEPS, Data, distance, make_model, make_optimizer, on_one_process, rule

OPTIONS = {
    "find_unused_parameters": {"find_unused_parameters": True},
    "gradient_as_bucket_view": {"gradient_as_bucket_view": True},
}


def train(
    name,
    *,
    given="wrapper",
    last=False,
    outside=False,
    late_wrap=False,
    thawed=False,
    data=None,
    offload=None,
    enforce=False,
    **options,
):
    rank, data = dist.get_rank(), data or Data(dist.get_world_size())
    expected, geometries = on_one_process(data, name, enforce=enforce)
    inner = make_model()
    inner.layers[1].requires_grad_(not thawed)
    model = None if late_wrap else DistributedDataParallel(inner, **options)
    inner.layers[1].requires_grad_(True)
    step = rf.TwoTaskStep(
        {"wrapper": model, "module": inner, "parameters": inner.parameters(), "named": inner.named_parameters()}[given],
        rule(name),
        offload=offload,
    )
    model = model or DistributedDataParallel(inner, **options)
    optimizer = make_optimizer(model)
    guard = step.guard(optimizer, enforce=True) if enforce else None
    found = []
    for i in range(STEPS):
        for micro in range(MICRO_BATCHES):
            for task in ("forget", "retain"):
                if not data.has_rows(task, rank):
                    continue
                block = getattr(step, task)(last=last and micro == MICRO_BATCHES - 1)
                loss = data.loss(model, i, micro, task, rank) if outside else None
                with block:
                    (data.loss(model, i, micro, task, rank) if loss is None else loss).backward()
        found.append(step.combine().as_dict())
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        if guard is not None:
            found[-1] = guard.geometry.as_dict()
    geometry = max(abs(a[key] - b[key]) for a, b in zip(found, geometries, strict=True) for key in b)
    return {"error": distance(dict(inner.named_parameters()), dict(expected.named_parameters())), "geometry": geometry}


@contextmanager
def patched(owner, **attributes):
    before = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def combine_before_averaging(name):
    """Wrong: signs and projections of averages are not averages of signs and projections."""
    combine = rf.TwoTaskStep.combine

    def average_afterwards(self):
        geometry = combine(self)
        for p in self._engine.parameters.values():
            if p.grad is not None:
                dist.all_reduce(p.grad.div_(dist.get_world_size()))
        return geometry

    with (
        patched(rf.TwoTaskStep, combine=average_afterwards),
        patched(_ddp.DDPEngine, average=lambda self, gradients: lambda: gradients),
    ):
        return train(name, data=Data(dist.get_world_size(), rare=None))


def bucket_views_without_a_copy(name):
    """Wrong: DDP averages in each backward pass, and one task's gradients lie in the memory of the other's."""
    with patched(_ddp, _out_of_buckets=lambda wrapper: nullcontext()):
        return train(name, outside=True, **OPTIONS["find_unused_parameters"], **OPTIONS["gradient_as_bucket_view"])


def construct(hook=False, **options):
    model = DistributedDataParallel(make_model(), **options)
    if hook:
        model.register_comm_hook(None, default_hooks.allreduce_hook)
    rf.TwoTaskStep(model)


def no_retain_gradient_anywhere():
    model = DistributedDataParallel(make_model())
    step = rf.TwoTaskStep(model)
    with step.forget():
        Data(dist.get_world_size()).loss(model, 0, 0, "forget", dist.get_rank()).backward()
    step.combine()


def buffers():
    """Running statistics are the first process's at the start of each step, as in training with DDP alone."""
    rank, found = dist.get_rank(), []
    for two_task in (True, False):
        torch.manual_seed(0)
        model = DistributedDataParallel(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double())
        step = rf.TwoTaskStep(model, "sum")
        rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(rank)).double()
        for _ in range(2):
            if two_task:
                for task in (step.forget, step.retain):
                    with task():
                        model(rows).square().sum().backward()
                step.combine()
            else:
                with model.no_sync():
                    model(rows).square().sum().backward()
                model(rows).square().sum().backward()
            model.zero_grad()
        found.append(model.module[1].running_mean)
    return {"error": (found[0] - found[1]).abs().max().item()}


def bytes_sent(name):
    """What is sent in a step; plain DDP sends the gradients of all that is trained, once."""
    model, rank, data = DistributedDataParallel(make_model()), dist.get_rank(), Data(dist.get_world_size())
    step, sent = rf.TwoTaskStep(model, rule(name)), []
    all_reduce = dist.all_reduce

    def counted(tensor, *arguments, **options):
        sent.append(tensor.nbytes)
        return all_reduce(tensor, *arguments, **options)

    with patched(dist, all_reduce=counted):
        for micro in range(MICRO_BATCHES):
            for task in ("forget", "retain"):
                with getattr(step, task)():
                    data.loss(model, 0, micro, task, rank).backward()
        step.combine()
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = sum(p.nbytes for p in trained)
    return {"bytes": sum(sent), "plain": plain, "calls": len(sent), "flags": 2 * len(trained)}


def small_buckets(name):
    with patched(_ddp, BUCKET_BYTES=100):
        return train(name)


def offloaded(name, **options):
    with cases.moving_on_the_cpu():
        return train(name, offload="cpu", **options)


CASES = {
    **{f"equal, rule {name}": partial(train, name) for name in RULES},
    **{f"equal, guard, {name}": partial(train, name, enforce=True) for name in ("sago", "pcgrad global")},
    "equal, guard, wrapped later": partial(train, "pcgrad global", enforce=True, given="module", late_wrap=True),
    **{f"equal, last {name}": partial(train, name, last=True) for name in ("sago", "pcgrad global")},
    **{f"equal, given {given}": partial(train, "sago", given=given) for given in ("module", "parameters", "named")},
    **{f"equal, {key}": partial(train, "pcgrad module", **options) for key, options in OPTIONS.items()},
    "equal, offloaded": partial(offloaded, "pcgrad global"),
    "equal, offloaded and averaged early": partial(offloaded, "pcgrad global", last=True),
    "equal, forward outside": partial(train, "sago", outside=True, find_unused_parameters=True),
    "equal, wrapped late": partial(train, "sago", given="module", late_wrap=True),
    "equal, unfrozen after DDP was built": partial(train, "sago", thawed=True),
    "equal, small buckets": partial(small_buckets, "sago"),
    "equal, a rank without retain rows": lambda: train("sago", data=absent("retain")),
    "equal, a rank without rows": lambda: train("pcgrad block", data=absent("forget", "retain")),
    "equal, buffers": buffers,
    "wrong, combine before averaging": partial(combine_before_averaging, "sago"),
    "wrong, bucket views without a copy": partial(bucket_views_without_a_copy, "sago"),
    "refused, static_graph": lambda: cases.refusal(partial(construct, static_graph=True)),
    "refused, hook": lambda: cases.refusal(partial(construct, hook=True)),
    "refused, bucket views": lambda: cases.refusal(
        partial(train, "sago", outside=True, **OPTIONS["find_unused_parameters"], **OPTIONS["gradient_as_bucket_view"])
    ),
    "refused, no retain gradient": lambda: cases.refusal(no_retain_gradient_anywhere),
    "sent, sago": partial(bytes_sent, "sago"),
    "sent, pcgrad global": partial(bytes_sent, "pcgrad global"),
}


def absent(*tasks):
    world = dist.get_world_size()
    return Data(world, absent=frozenset((world - 1, task) for task in tasks))


if __name__ == "__main__":
    cases.main(CASES)
