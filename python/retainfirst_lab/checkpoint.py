"""Checkpoints of a training in one file."""

from __future__ import annotations

import json
import logging
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retainfirst.files import whole_file
from retainfirst.weights import weights_digest

__all__ = ["load_checkpoint", "save_checkpoint", "training_key"]

_logger = logging.getLogger(__name__)


def training_key(model: nn.Module, settings: Any) -> str:
    """Return a digest that tells one training from another.

    Args:
        model: With its weights before the training.
        settings: What else decides the result, as JSON takes it: rows, sizes, rates, seeds.
    """
    return sha256(json.dumps([weights_digest(model), settings], sort_keys=True).encode()).hexdigest()


def save_checkpoint(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any], key: str
) -> None:
    """Save the present state; an earlier checkpoint is replaced at once.

    Args:
        file: The checkpoint.
        model: Its weights are saved.
        optimizer: Its state is saved.
        progress: Further state: numbers, texts, tensors and containers of them.
        key: The training's :func:`training_key`.
    """
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress, "key": key}
    with whole_file(file) as draft:
        torch.save(state, draft)


def load_checkpoint(
    file: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, key: str
) -> dict[str, Any] | None:
    """Load a checkpoint into a model and an optimizer.

    Args:
        file: A checkpoint of :func:`save_checkpoint`. If it is None, absent, damaged or of another training, nothing is loaded.
        model: Gets the weights.
        optimizer: Gets its state.
        key: The training's :func:`training_key`.

    Returns:
        The progress, or None if nothing was loaded.
    """
    if file is None or not file.exists():
        return None
    try:
        state = torch.load(file, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    if state.get("key") != key:
        _logger.warning("%s is a checkpoint of another training; this one begins anew", file)
        return None
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return dict(state["progress"])
