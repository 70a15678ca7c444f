"""The transformers trainer on one GPU: plain, in DDP, or in FSDP 2, as the launcher's environment says."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from transformers import TrainingArguments

import cases
import tiny
from adapted import adapted_llama
from pairs import InOrder, make_pairs
from retainfirst.data import PairedCollator
from retainfirst.hf import TwoTaskTrainer
from wraps import whole

FOLDER = Path.cwd()  # a fresh one for each run
DEVICE = os.environ.get("RETAINFIRST_TEST_DEVICE", "cuda")
KINDS = {
    "plain": {},
    "DDP": {"ACCELERATE_BYPASS_DEVICE_MAP": "true" if DEVICE == "cpu" else "false"},
    # As accelerate launch sets them from a configuration file.
    "FSDP 2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    },
}
ENGINES = {"plain": "Engine", "DDP": "DDPEngine", "FSDP 2": "FSDP2Engine"}


def train(make=tiny.tiny_llama, kind=InOrder, resume=None, combiner="sago", scale=1024.0, **options):
    defaults = {
        "learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "constant", "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "max_grad_norm": 0.5, "max_steps": 2, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "use_cpu": DEVICE == "cpu", "disable_tqdm": True, "ddp_find_unused_parameters": False,
    }  # fmt: skip
    arguments = TrainingArguments(output_dir=str(FOLDER / "out"), **{**defaults, **options})
    if DEVICE == "cpu" and "RANK" in os.environ:
        # accelerate offers FSDP on GPUs only, and here a test is tried out.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = kind(
        model=make(), args=arguments, train_dataset=make_pairs(16), data_collator=PairedCollator(0), objective="ga",
        combiner=combiner,
    )  # fmt: skip
    if trainer.accelerator.scaler is not None:
        # Its default of 65536 may skip the first steps, and there are two.
        trainer.accelerator.scaler._init_scale = scale
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def flat(model):
    return torch.cat([p.double().cpu().reshape(-1) for p in whole(model).values()]).tolist()


def case(make=tiny.tiny_llama, **options):
    trainer = train(make, **options)
    keys = ("loss", "forget_loss", "retain_loss", "grad_norm", "cos_update_retain", "norm_update")
    scaler = trainer.accelerator.scaler
    return {
        "start": flat(make()),
        "end": flat(trainer.model),
        "logs": [{key: entry[key] for key in keys} for entry in trainer.state.log_history if "forget_loss" in entry],
        "engine": type(trainer._two_task_step._engine).__name__,
        "device": trainer.args.device.type,
        "precision": [trainer.accelerator.mixed_precision, None if scaler is None else scaler.get_scale()],
    }


def resumed():
    """Two steps of four, from a checkpoint, after the four without a break, in the order that a sampler draws."""
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-3}
    options["kind"] = TwoTaskTrainer
    unbroken, again = (train(resume=resume, **options) for resume in (None, str(FOLDER / "out/checkpoint-2")))
    return {"equal": flat(unbroken.model) == flat(again.model), "step": again.state.global_step}


CASES = {
    "float32": case,
    "bf16": partial(case, bf16=True),
    "fp16": partial(case, fp16=True),
    "overflow": partial(case, fp16=True, scale=2.0**60),
    "bf16, pcgrad": partial(case, bf16=True, combiner="pcgrad"),
    "adapters and checkpointing": partial(
        case, adapted_llama, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    ),
}

if __name__ == "__main__":
    if sys.argv[2] == "plain":
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            del os.environ[name]
    if sys.argv[2] == "DDP":
        # accelerate wraps more processes than one only.
        Accelerator.multi_device = property(lambda _: True)
    if DEVICE == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)  # so that a resumed run can be the same to the bit
    trying_out = DEVICE == "cpu" and sys.argv[2] != "plain"
    cases.main({**CASES, "resumed": resumed}, "gloo" if trying_out else None)
