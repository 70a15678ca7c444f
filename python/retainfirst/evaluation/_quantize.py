"""Round-to-nearest quantisation of a model's weights, in torch alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.errors import RetainFirstError

__all__ = ["GROUP", "quantizable", "quantized", "round_to_nearest"]

GROUP = 64
"""The group size that quantisers use most often."""


def round_to_nearest(weight: Tensor, bits: int, group: int | None = None) -> Tensor:
    """Quantise a matrix symmetrically, and return the weights that the quantised numbers stand for.

    Each output channel, or each group of neighbouring weights in it, has one scale: its largest magnitude divided by
    ``2**(bits - 1) - 1``. Weights become the nearest multiple of the scale; ties go to the even multiple. This is the
    simplest of the post-training quantisers, and the one that Zhang et al. (2024, arXiv 2410.16454) study first.

    Args:
        weight: ``[out, in]``.
        bits: From 2 to 8.
        group: Weights that share a scale, counted along the input; the last group of a channel may be shorter. None: the whole
            channel.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        RetainFirstError: ``bits`` or ``group`` is out of its range.
    """
    if not 2 <= bits <= 8:
        raise RetainFirstError(f"bits must be from 2 to 8, found {bits}.")
    if group is not None and group < 1:
        raise RetainFirstError(f"group must be at least 1, found {group}.")
    width = weight.shape[1]
    size = width if group is None else min(group, width)
    padded = nn.functional.pad(weight.detach().float(), (0, -width % size))
    groups = padded.reshape(len(padded), -1, size)
    scale = groups.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    # A group of zeros has the scale 0; any other scale gives zeros again.
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    rounded: Tensor = ((groups / scale).round() * scale).flatten(1)[:, :width]
    return rounded.to(weight.dtype)


def quantizable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that weight-only quantisers change: those of linear layers, by name.

    Embeddings and the output layer, which may share their weights, keep their precision, as in bitsandbytes, GPTQ and AWQ.
    """
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    kept = {id(parameter) for parameter in ([] if head is None else head.parameters())}
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or _is_conv1d(module)) and id(module.weight) not in kept
    }


@contextmanager
def quantized(model: nn.Module, bits: int, group: int | None = None) -> Iterator[nn.Module]:
    """Quantise a model's linear layers inside the block, by :func:`round_to_nearest`; afterwards it has its own weights again.

    The weights are changed in place, and a copy of them waits in host memory. Arithmetic keeps the model's dtype, so the block
    shows what quantisation does to the answers, not to speed or memory.

    Args:
        model: A causal language model.
        bits: From 2 to 8.
        group: Weights that share a scale; None: each output channel has one.

    Yields:
        The same model.

    Raises:
        RetainFirstError: ``bits`` or ``group`` is out of its range, or the model has no linear layer.
    """
    weights = quantizable(model)
    if not weights:
        raise RetainFirstError(f"{type(model).__name__} has no linear layer to quantise.")
    transposed = {f"{name}.weight" for name, module in model.named_modules() if _is_conv1d(module)}
    with restored(weights):
        with torch.no_grad():
            for name, weight in weights.items():
                if name in transposed:
                    weight.copy_(round_to_nearest(weight.T, bits, group).T)
                else:
                    weight.copy_(round_to_nearest(weight, bits, group))
        yield model


@contextmanager
def restored(parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """Give parameters their values back after the block; the copies wait in host memory."""
    before = {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])


def _is_conv1d(module: Any) -> bool:
    """Tell whether a module is transformers' ``Conv1D`` (of GPT-2), whose weight is ``[in, out]``."""
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")
