"""Device, sizes and combiners that the sections of :mod:`retainfirst_lab.studies.gpu` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import retainfirst as rf

__all__ = ["CASES", "COUNT", "DTYPES", "ELEMENTWISE", "Setting", "dtype_name", "make"]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ELEMENTWISE = ("sum", "sago", "sago_keep_retain")
CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ELEMENTWISE},
    "pcgrad": {"scope": "tensor"},
    "pcgrad global": {"scope": "global"},
    "pcgrad toward retain": {"scope": "tensor", "round_toward_retain": True},
    "blur": {"scope": "tensor"},
    "blur global": {"scope": "global"},
    **{name: {} for name in ("ngdiff", "gru", "orthogonal", "agem")},
}
"""Combiners, each with the options that :func:`make` gives it; its name is the first word."""

COUNT = 300
"""Tensors of a list of small tensors."""


@dataclass(frozen=True)
class Setting:
    """Where and how much is measured.

    Attributes:
        device: A GPU; the CPU for a try.
        rounds: Of each time.
        scale: Multiplies all sizes.
    """

    device: torch.device
    rounds: int = 20
    scale: float = 1.0

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def sized(self, n: int) -> int:
        """Return a scaled size; a multiple of 16 stays one."""
        return max(16, int(n * self.scale) // 16 * 16) if n % 16 == 0 else max(1, int(n * self.scale))

    def wait(self) -> None:
        """Wait until the GPU is idle."""
        if self.on_gpu:
            torch.cuda.synchronize()


def make(name: str) -> rf.Combiner:
    """Return a combiner of :data:`CASES`. Both weights are 0.5, so that repeated updates stay in the range of float16."""
    return rf.make_combiner(name.split()[0], alpha=0.5, gamma=0.5, **CASES[name])


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
