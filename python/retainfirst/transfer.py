"""Sending small host data to a device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["send"]


def send(host: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device, behind the work that is queued there.

    A plain ``.to(device)`` from pageable memory makes the host wait until a GPU has done all of that work.

    Args:
        host: On the CPU; not to be changed afterwards.
        device: Where to.

    Returns:
        The tensor on the device; the same one for the CPU.
    """
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
