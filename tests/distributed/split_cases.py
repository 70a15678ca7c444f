"""A trainer that others wrote, split, beside its own run on the same processes and beside one process."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate import DistributedType, PartialState
from torch import distributed as dist

import cases
import foreign
import tiny
from retainfirst.hf import split_trainer

FOLDER = Path.cwd()  # a fresh one for each run

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


class InOrder(foreign.GradDiff):
    """Takes the rows in order."""

    def _get_train_sampler(self, *_):
        return None


class ThroughModule(InOrder):
    """Calls the model inside DistributedDataParallel."""

    def compute_loss(self, model, inputs, **options):
        return super().compute_loss(getattr(model, "module", model), inputs, **options)


def train(combiner, kind=InOrder, dtype=torch.float64, environment=None, **options):
    """Return the engine's name and all parameters after three steps; without a combiner, of the trainer's own run."""
    options = {
        "per_device_train_batch_size": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 0.5,
        **options,
    }
    with patch.dict(os.environ, environment or {}):
        arguments = foreign.arguments(FOLDER / "out", **options)
        if environment:
            # accelerate offers FSDP on GPUs only.
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        trainer = foreign.make(kind, arguments, model=tiny.tiny_llama(dtype=dtype))
        if combiner is not None:
            split_trainer(trainer, combiner)
        trainer.train()
    step = getattr(trainer, "_two_task_step", None)
    whole = torch.cat([_full(p).reshape(-1) for p in trainer.model.parameters()])
    return type(step._engine).__name__ if step else None, whole


def _full(parameter):
    if hasattr(parameter, "full_tensor"):
        parameter = parameter.full_tensor()
    if not hasattr(parameter, "ds_id"):
        return parameter.detach()
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def against_own(own_options=None, **options):
    """The largest difference of a split run with plain addition to the trainer's own run."""
    _, own = train(None, **(options if own_options is None else own_options))
    engine, split = train("sum", **options)
    start = torch.cat([p.reshape(-1) for p in tiny.tiny_llama(dtype=split.dtype).parameters()]).detach()
    return {
        "engine": engine,
        "difference": (own - split).abs().max().item(),
        "moved": (own - start).abs().max().item(),
    }


def against_one(combiner, **options):
    """All parameters: two processes take the rows that one takes by accumulating."""
    options |= {"gradient_accumulation_steps": 2 // dist.get_world_size()}
    alone = {"deepspeed": None, "use_cpu": True, "environment": None} if dist.get_world_size() == 1 else {}
    return {"parameters": train(combiner, **options | alone)[1].tolist()}


SET_UPS = {"DDP": {"ddp_find_unused_parameters": False}, "FSDP 2": {"environment": FSDP2}}
OWN = {name: partial(against_own, **options) for name, options in SET_UPS.items()}
OWN["DDP, the model inside"] = partial(against_own, own_options={}, kind=ThroughModule)
ONE = {
    f"{name}, {combiner}": partial(against_one, combiner, **options)
    for name, options in SET_UPS.items()
    for combiner in ("sago", "pcgrad")
}

if __name__ == "__main__":
    cases.main(ONE | (OWN if os.environ["WORLD_SIZE"] != "1" else {}))
