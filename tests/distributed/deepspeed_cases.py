"""DeepSpeed ZeRO 1, 2 and 3 on the CPU, each beside one process on all rows. float32: DeepSpeed has nothing wider."""

from __future__ import annotations

from functools import partial

import deepspeed
import torch
from torch import distributed as dist

import cases
import retainfirst as rf
from setting import CLIP, MICRO_BATCHES, STEPS, Data, distance, make_model, make_optimizer, on_one_process, rule

# A kernel for shared memory, which would be compiled at the first use; gloo does without it.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
TESTED = ("sum", "sago", "pcgrad tensor", "pcgrad module", "pcgrad global", "blur block")


def make_engine(stage, dtype=torch.float32, clip=CLIP):
    model = make_model(dtype)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "gradient_clipping": clip,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=make_optimizer(model), config=config)
    return engine


def parameters_of(engine):
    parameters = dict(engine.module.named_parameters())
    if engine.zero_optimization_stage() < 3:
        return parameters
    with deepspeed.zero.GatheredParameters(list(parameters.values())):
        return {name: p.detach().clone() for name, p in parameters.items()}


def train(stage, name, *, given="engine"):
    rank, data = dist.get_rank(), Data(dist.get_world_size(), rare=None)
    expected, geometries = on_one_process(data, name, torch.float32)
    engine = make_engine(stage)
    step = rf.TwoTaskStep({"engine": engine, "module": engine.module}[given], rule(name))
    found = []
    for i in range(STEPS):
        for micro in range(MICRO_BATCHES):
            for task in ("forget", "retain"):
                with getattr(step, task)():
                    engine.backward(data.loss(engine, i, micro, task, rank), scale_wrt_gas=False)
        found.append(step.combine().all_reduce().as_dict())
        engine.step()
    # Parameters that no pass reaches count as coordinates here.
    keys = [key for key in found[0] if key != "conflict_fraction"]
    geometry = max(abs(a[key] - b[key]) for a, b in zip(found, geometries, strict=True) for key in keys)
    return {"error": distance(parameters_of(engine), dict(expected.named_parameters())), "geometry": geometry}


CASES = {
    **{f"stage {stage}, {name}": partial(train, stage, name) for stage in (1, 2, 3) for name in TESTED},
}

if __name__ == "__main__":
    cases.main(CASES)
