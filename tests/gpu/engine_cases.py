"""DDP and FSDP with one process on one GPU, beside the same model there without a wrapper, and float64 beside the CPU."""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn
from torch.func import functional_call

import cases
import retainfirst as rf
from adapted import make_adapted
from setting import CLIP, MICRO_BATCHES, STEPS, Data, distance, make_model, make_optimizer, on_one_process, rule
from wraps import WRAPS, MixedPrecisionPolicy, shard1, whole

DEVICE = torch.device(os.environ.get("RETAINFIRST_TEST_DEVICE", "cuda"))
NAMES = ("sum", "sago", "sago_keep_retain", "pcgrad tensor", "pcgrad global", "blur global")
MODES = {
    "float32": {},
    "bf16 autocast": {"autocast": torch.bfloat16},
    "pure bf16": {"dtype": torch.bfloat16},
    "fp16 autocast": {"autocast": torch.float16},
}
WRAPPED = ("DDP", "fully_shard")
NARROW = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def steps(model, name, optimizer, *, forward=None, autocast=None, spoiled=None):
    """Train, and return each step's geometry and, after it, the loss scale; ``spoiled``: a task, in one more step at first."""
    data, step = Data(1, rare=None, device=DEVICE), rf.TwoTaskStep(model, rule(name))
    scaler = torch.amp.GradScaler(DEVICE.type, 1024.0, enabled=autocast == torch.float16)
    geometries, scales = [], []
    for i in range(STEPS + (spoiled is not None)):
        for micro in range(MICRO_BATCHES):
            for task in ("forget", "retain"):
                with getattr(step, task)():
                    with torch.autocast(DEVICE.type, autocast) if autocast else nullcontext():
                        loss = data.loss(forward or model, i, micro, task, 0)
                    broken = (task, i, micro) == (spoiled, 0, 1)
                    scaler.scale(loss * torch.inf if broken else loss).backward()
        geometries.append(step.combine().all_reduce().as_dict())
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scales.append(scaler.get_scale())
    return geometries, scales


def sgd(model):
    """Gradients as they are: Adam would blow up the smallest ones' rounding errors."""
    return torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)


def in_bf16(model):
    """What a MixedPrecisionPolicy does, without fully_shard."""
    narrow = lambda: {key: p.to(torch.bfloat16) for key, p in model.named_parameters()}  # noqa: E731
    return lambda *arguments: functional_call(model, narrow(), arguments)


def beside_no_wrapper(wrap, name, *, dtype=torch.float32, make=make_model, checkpointing=None, policy=None, **options):
    found = []
    start = whole(make(dtype).to(DEVICE))
    for wrapped in (False, True):
        inner = (make if checkpointing is None else partial(make, checkpointing=checkpointing and wrapped))(dtype)
        inner = inner.to(DEVICE)
        model = WRAPS[wrap](inner, **({} if policy is None else {"mp_policy": policy})) if wrapped else inner
        forward = in_bf16(inner) if policy is not None and not wrapped else None
        geometries, scales = steps(model, name, sgd(model), forward=forward, **options)
        found.append((whole(model), geometries, scales))
    (expected, geometries, scales), (parameters, mine, my_scales) = found
    flat = [torch.cat([p[key].double().reshape(-1) for key in start]) for p in (parameters, expected, start)]
    # A step that is skipped has no geometry to compare.
    pairs = [(a[key], b[key]) for a, b in zip(mine[-STEPS:], geometries[-STEPS:], strict=True) for key in a]
    return {
        "error": ((flat[0] - flat[1]).norm() / (flat[1] - flat[2]).norm()).item(),
        "moved": (flat[1] - flat[2]).norm().item(),
        "geometry": max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs),
        "scales": [my_scales, scales],
    }


def beside_the_cpu(wrap, name):
    expected, geometries = on_one_process(Data(1, rare=None), name)
    inner = make_model().to(DEVICE)
    model = WRAPS[wrap](inner) if wrap else inner
    found, _ = steps(model, name, make_optimizer(model))
    parameters = {key: p.cpu() for key, p in whole(model).items()}
    return {
        "error": distance(parameters, dict(expected.named_parameters())),
        "geometry": max(abs(a[key] - b[key]) for a, b in zip(found, geometries, strict=True) for key in a),
    }


CASES = {
    **{f"float64, {wrap}, {name}": partial(beside_the_cpu, wrap, name) for wrap in (None, *WRAPPED) for name in NAMES},
    **{
        f"near, {wrap}, {mode}, {name}": partial(beside_no_wrapper, wrap, name, **options)
        for wrap in WRAPPED
        for mode, options in MODES.items()
        for name in NAMES
    },
    **{
        f"near, fully_shard, its mixed precision, {name}": partial(
            beside_no_wrapper, "fully_shard", name, policy=NARROW
        )
        for name in NAMES
    },
    **{
        f"near, {wrap}, adapters and checkpointing, {name}": partial(
            beside_no_wrapper, wrap, name, make=make_adapted, checkpointing=True
        )
        for wrap in WRAPPED
        for name in ("sago", "pcgrad global")
    },
    **{
        f"skipped, {wrap}, {task}, {name}": partial(beside_no_wrapper, wrap, name, autocast=torch.float16, spoiled=task)
        for wrap in WRAPPED
        for task in ("forget", "retain")
        for name in NAMES
    },
    "refused, FSDP": lambda: cases.refusal(lambda: rf.TwoTaskStep(shard1(make_model().to(DEVICE)))),
}

if __name__ == "__main__":
    if DEVICE.type == "cuda":
        torch.cuda.set_device(0)
        # With and without a wrapper the same sums in the same order, so that what differs is the wrapper's. Only a warning,
        # since some kernels are deterministic and not known to be; memory that is not written holds NaN then.
        torch.use_deterministic_algorithms(True, warn_only=True)
    cases.main(CASES, "nccl" if DEVICE.type == "cuda" else "gloo")
