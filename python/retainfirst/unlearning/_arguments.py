"""The arguments of transformers' trainer for a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from retainfirst.errors import RetainFirstError, require
from retainfirst.unlearning._config import UnlearnConfig

transformers: Any = require("transformers", "hf")

__all__ = ["training_arguments"]


class _OneDevice(transformers.TrainingArguments):  # type: ignore[misc]
    """Arguments for the device that accelerate has; transformers itself takes the first GPU, and all of them at once."""

    @property
    def device(self) -> torch.device:
        _ = super().device  # makes the state
        found: torch.device = self.distributed_state.device
        return found

    @property
    def n_gpu(self) -> int:
        return min(int(super().n_gpu), 1)


def training_arguments(config: UnlearnConfig, work: Path) -> Any:
    """Return the ``TrainingArguments`` of a run, whose device is the one that the settings name.

    Args:
        config: The run's settings.
        work: The folder for checkpoints and logs.

    Raises:
        RetainFirstError: transformers trains on another device.
    """
    device = None if config.device == "auto" else torch.device(config.device)
    make = transformers.TrainingArguments if device is None else _OneDevice
    with _accelerate_takes(device):
        arguments = make(
            output_dir=str(work),
            max_steps=config.max_steps or -1,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulate,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            max_grad_norm=config.max_grad_norm,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps" if config.save_every else "no",
            save_steps=config.save_every or 500,
            save_total_limit=1,
            report_to=config.report_to,
            seed=config.seed,
            disable_tqdm=True,
            use_cpu=not _has_accelerator() if device is None else device.type == "cpu",
            dataloader_pin_memory=torch.cuda.is_available(),
            bf16=config.dtype == "bfloat16" and not config.lora_rank,
        )
        found = arguments.device
    if device is not None and (found.type, found.index or 0) != (device.type, device.index or 0):
        raise RetainFirstError(f"device {config.device!r} cannot be used: transformers trains on '{found}' here")
    if device is not None and device.type == "cuda":
        torch.cuda.set_device(found)
    return arguments


@contextmanager
def _accelerate_takes(device: torch.device | None) -> Iterator[None]:
    """Let accelerate choose this device for what is made in the block; by itself it takes the first one."""
    if device is None or device.type == "cpu":
        yield
        return
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    os.environ[name] = f"{device.type}:{device.index or 0}"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
