"""The state of a training in one file, for runs that take too long to begin again."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Replace the file by the present state; it is whole at any moment.

    Args:
        file: Where.
        model: Its weights are kept.
        optimizer: Its state is kept.
        progress: Numbers, texts, tensors and containers of them.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress}, draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def load_checkpoint(file: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put the state of a file back.

    Args:
        file: What :func:`save_checkpoint` wrote; None, absent or damaged: nothing happens.
        model: Gets the weights.
        optimizer: Gets its state.

    Returns:
        The progress, or None if there was nothing to go on from.
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
