"""Quantisation of a model's weights: round to nearest, in torch alone, and NF4 by bitsandbytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.errors import RetainFirstError, require
from retainfirst.models import check_not_quantized

__all__ = ["GROUP", "nf4", "quantizable", "quantized", "quantized_nf4", "round_to_nearest"]

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


def nf4(weight: Tensor) -> Tensor:
    """Quantise a matrix to 4-bit NormalFloat by bitsandbytes, and return the weights that the quantised numbers stand for.

    Blocks of 64 weights, one after the other in memory, have one scale in float32 each: the defaults of transformers'
    ``BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")``. Source: Dettmers et al. (2023, arXiv 2305.14314).

    Args:
        weight: ``[out, in]``, in float32, float16 or bfloat16, on a device for which bitsandbytes has the kernels.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        MissingDependency: bitsandbytes is not installed (extra ``quantize``).
        RetainFirstError: It has no kernels for this dtype or device; the text has its reason.
    """
    functional = require("bitsandbytes.functional", "quantize")
    try:
        codes, state = functional.quantize_4bit(weight.detach().contiguous(), blocksize=GROUP, quant_type="nf4")
        found: Tensor = functional.dequantize_4bit(codes, state)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RetainFirstError(
            f"bitsandbytes cannot quantise {weight.dtype} weights on the device {weight.device.type} to nf4 ({reason}). Use "
            "another device or a newer bitsandbytes (on a CPU at least 0.46), or round to 4 bits without it."
        ) from error
    return found.to(weight.dtype)


def quantized(model: nn.Module, bits: int, group: int | None = None) -> AbstractContextManager[nn.Module]:
    """Quantise a model's linear layers inside a block, by :func:`round_to_nearest`; afterwards it has its own weights again.

    The weights are changed in place, and a copy of them waits in host memory. Arithmetic keeps the model's dtype, so the block
    shows what quantisation does to the answers, not to speed or memory.

    Args:
        model: A causal language model.
        bits: From 2 to 8.
        group: Weights that share a scale; None: each output channel has one.

    Returns:
        A context manager that yields the same model.

    Raises:
        RetainFirstError: On entry: ``bits`` or ``group`` is out of its range, the model has no linear layer, or it is quantised
            already.
    """
    return _changed(model, partial(round_to_nearest, bits=bits, group=group))


def quantized_nf4(model: nn.Module) -> AbstractContextManager[nn.Module]:
    """Quantise a model's linear layers inside a block, by :func:`nf4`; otherwise as :func:`quantized`."""
    return _changed(model, nf4)


@contextmanager
def _changed(model: nn.Module, quantise: Callable[[Tensor], Tensor]) -> Iterator[nn.Module]:
    weights = quantizable(model)
    if not weights:
        raise RetainFirstError(f"{type(model).__name__} has no linear layer to quantise.")
    check_not_quantized(type(model).__name__, model, "its weights cannot be quantised again")
    transposed = {f"{name}.weight" for name, module in model.named_modules() if _is_conv1d(module)}
    with restored(weights):
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(quantise(weight.T).T if name in transposed else quantise(weight))
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
