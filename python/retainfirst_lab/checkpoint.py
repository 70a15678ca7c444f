"""Checkpoints of a training in one file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retainfirst.files import whole_file

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Save the present state; an earlier checkpoint is replaced at once.

    Args:
        file: The checkpoint.
        model: Its weights are saved.
        optimizer: Its state is saved.
        progress: Further state: numbers, texts, tensors and containers of them.
    """
    with whole_file(file) as draft:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress}, draft)


def load_checkpoint(file: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Load a checkpoint into a model and an optimizer.

    Args:
        file: A checkpoint of :func:`save_checkpoint`. If it is None, absent or damaged, nothing is loaded.
        model: Gets the weights.
        optimizer: Gets its state.

    Returns:
        The progress, or None if nothing was loaded.
    """
    if file is None or not file.exists():
        return None
    try:
        state = torch.load(file, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return dict(state["progress"])
