"""Other implementations of the same updates, each written in the obvious way.

They take a forget and a retain gradient and return a new tensor, except plain addition, which writes into retain as autograd's
accumulation does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["GAMMA", "Peer", "peers_for", "plain_addition"]

GAMMA = 0.25
"""The weight of forget in every benchmark; the weight of retain is 1."""


def plain_addition(forget: Tensor, retain: Tensor) -> Tensor:
    """Accumulate, as ``backward()`` on the sum of two losses does."""
    return retain.add_(forget, alpha=GAMMA)


def sago_where(forget: Tensor, retain: Tensor) -> Tensor:
    """SAGO by ``torch.where``."""
    return torch.where(forget * retain < 0, retain, GAMMA * forget)


def sago_mask(forget: Tensor, retain: Tensor) -> Tensor:
    """SAGO by indexing with boolean masks."""
    update = torch.zeros_like(retain)
    opposed = torch.sign(forget) * torch.sign(retain) < 0
    update[opposed] = retain[opposed]
    update[~opposed] = GAMMA * forget[~opposed]
    return update


def sago_numpy(forget: Tensor, retain: Tensor) -> Tensor:
    """SAGO by ``numpy.where``."""
    import numpy as np

    f, r = forget.numpy(), retain.numpy()
    return torch.from_numpy(np.where(f * r < 0, r, np.float32(GAMMA) * f))


def pcgrad_torchjd() -> Peer:
    """Return TorchJD's PCGrad, which projects both gradients, where ours projects forget alone."""
    from torchjd.aggregation import PCGrad

    aggregate = PCGrad()
    return lambda forget, retain: aggregate(torch.stack([GAMMA * forget, retain]))


Peer = Callable[[Tensor, Tensor], Tensor]


def peers_for(dtype: torch.dtype, device: str) -> dict[str, Peer]:
    """Return the peers that are installed and support this dtype and device."""
    found: dict[str, Peer] = {"torch.where": sago_where, "boolean mask": sago_mask}
    if device == "cpu" and dtype == torch.float32:
        found["numpy"] = sago_numpy
    # Its solver has no 16-bit form.
    if dtype == torch.float32 and importlib.util.find_spec("torchjd") is not None:
        found["TorchJD PCGrad"] = pcgrad_torchjd()
    return found
