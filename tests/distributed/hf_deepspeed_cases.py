"""The trainer with DeepSpeed as transformers and accelerate set it up, and without it on one process."""

from __future__ import annotations

import os
from functools import partial
from importlib import metadata

import deepspeed
import torch
from torch import distributed as dist

import cases
from hf_cases import report, resumed, train

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def config(stage):
    return {
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
        "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip


def with_deepspeed(stage):
    # On a machine without GPU, older accelerate takes DeepSpeed only without use_cpu, and newer only with it.
    return {"deepspeed": config(stage), "use_cpu": metadata.version("accelerate") >= "1"}


def case(stage, accumulate=1, **options):
    accumulate *= 2 // dist.get_world_size()
    if dist.get_world_size() > 1:
        options |= with_deepspeed(stage)
    trainer = train(gradient_accumulation_steps=accumulate, dtype=torch.float32, **options)
    if dist.get_world_size() == 1 or stage < 3:
        return report(trainer)
    with deepspeed.zero.GatheredParameters(list(trainer.model.parameters())):
        return report(trainer)


def resumed_in(stage):
    return resumed(
        lambda parameters: deepspeed.zero.GatheredParameters(parameters, enabled=stage == 3),
        dtype=torch.float32,
        **with_deepspeed(stage),
    )


CASES = {
    **{f"stage {stage}": partial(case, stage, max_steps=2) for stage in (1, 2, 3)},
    **{
        f"stage {stage}, accumulation": partial(case, stage, accumulate=2, max_steps=2, combiner="pcgrad")
        for stage in (1, 2, 3)
    },
}

RESUMED = {f"resumed, stage {stage}": partial(resumed_in, stage) for stage in (1, 2, 3)}

if __name__ == "__main__":
    cases.main(CASES | (RESUMED if os.environ["WORLD_SIZE"] != "1" else {}))
