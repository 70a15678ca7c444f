"""The rules as the paper writes them, in the plainest torch: what the library is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

ELEMENTWISE = ("sum", "sago", "sago_keep_retain")
PROJECTIONS = ("pcgrad", "blur")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def elementwise(name: str, f: Tensor, r: Tensor, alpha: float, gamma: float) -> Tensor:
    """Scalars take part in their tensor's dtype; every operation is rounded once. 16-bit inputs are widened by the caller."""
    if name == "sum":
        return alpha * r + gamma * f
    conflict = torch.sign(f) * torch.sign(r) < 0
    return torch.where(conflict, alpha * r, gamma * f if name == "sago" else alpha * r + gamma * f)


def projection(name: str, f: Tensor, r: Tensor, alpha: float, gamma: float) -> Tensor:
    """One group, flat, in float64."""
    f, r = f.double(), r.double()
    if name == "blur":
        return gamma * f + alpha * (r - (f @ r) / (f @ f) * f)
    h = f - (f @ r) / (r @ r) * r if f @ r < 0 else f
    return alpha * r + gamma * h


def gradients(n: int, dtype: torch.dtype, seed: int = 0, ratio: float = 1.0) -> tuple[Tensor, Tensor]:
    """Two random gradients with zeros of both signs among them, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    f = torch.randn(n, generator=generator, dtype=torch.float64, device="cpu") * ratio
    r = torch.randn(n, generator=generator, dtype=torch.float64, device="cpu")
    for x, value in ((f, 0.0), (r, -0.0)):
        x[torch.rand(n, generator=generator, device="cpu") < 0.1] = value
    device = torch.get_default_device()
    return f.to(device, dtype), r.to(device, dtype)
