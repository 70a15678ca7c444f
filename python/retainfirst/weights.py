"""A digest of a model's weights, which tells the results of one model from those of another."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["weights_digest"]


@torch.no_grad()
def weights_digest(model: nn.Module) -> str | None:
    """Return a SHA-256 of a model's state dict and its config.

    It reads every byte once.

    Args:
        model: The names, types, shapes and values of its parameters and buffers count, and those of its adapters.

    Returns:
        The digest in hexadecimal; None if values are not in this process (offloaded to disk, or partitioned by ZeRO-3).
    """
    found = sha256()
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_json_string"):
        found.update(config.to_json_string().encode())
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):  # extra state of a quantised layer
            found.update(f"{name}{value!r}".encode())
            continue
        if value.is_meta or hasattr(value, "ds_id"):
            return None
        found.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
