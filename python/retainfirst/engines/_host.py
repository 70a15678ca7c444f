"""Host memory for the idle task's gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from retainfirst.engines._local import Gradients, local

__all__ = ["HostMemory"]


class HostMemory:
    """Moves a task's gradients between their device and buffers on the host that are kept from step to step.

    The tensors stay the same objects and only their memory moves, so that engines need not know. Copies are queued on the
    current stream; on a GPU the buffers are pinned, so that the host does not wait. Gradients on the CPU stay.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    @torch.no_grad()
    def swap(self, out: str, leaving: Gradients, coming: Gradients, parameters: Mapping[str, nn.Parameter]) -> None:
        """Send one task's gradients to the host and bring the other's back, one parameter after the other.

        Args:
            out: The task that leaves.
            leaving: Its gradients, by parameter name.
            coming: The other task's.
            parameters: What is trained, by name: each gradient belongs where its parameter is.
        """
        for name in leaving | coming:
            if name in leaving:
                self._store(out, name, local(leaving[name]))
            if name in coming:
                here = local(coming[name])
                here.data = here.to(parameters[name].device, non_blocking=True)

    def _store(self, task: str, name: str, gradient: Tensor) -> None:
        if not _is_away(gradient) or gradient.layout != torch.strided:
            return  # cannot be pinned; the combination refuses it
        buffer = self._buffers.get((task, name))
        like = (gradient.shape, gradient.dtype, gradient.stride())
        if buffer is None or (buffer.shape, buffer.dtype, buffer.stride()) != like:
            buffer = torch.empty_like(gradient, device="cpu", pin_memory=gradient.is_cuda)
            self._buffers[task, name] = buffer
        gradient.data = buffer.copy_(gradient, non_blocking=True)


def _is_away(gradient: Tensor) -> bool:
    return gradient.device.type != "cpu"
