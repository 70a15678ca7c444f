"""Conversion between torch tensors and the flat numpy arrays of the reference and the exact oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retainfirst.errors import RetainFirstError

__all__ = ["FORMATS", "as_array", "as_tensor", "flatten_pair"]

FORMATS: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The four floating-point formats by name."""


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as a flat array of the same format; no copy if it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().reshape(-1).contiguous()
    if flat.dtype == torch.bfloat16:  # Tensor.numpy refuses it
        return flat.view(torch.int16).numpy().view(FORMATS["bfloat16"])
    return flat.numpy()


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return an array's elements, copied, as a tensor of the same format and shape."""
    if array.dtype == FORMATS["bfloat16"]:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def flatten_pair(forget: Any, retain: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return two gradients as flat arrays of one size and format.

    Args:
        forget: A tensor, an array, or a sequence or mapping of them; None counts as zero if the other gradient is given.
        retain: The same structure, keys, shapes and formats.

    Raises:
        RetainFirstError: A gradient has another type or is not finite, or the two differ; the text names the place.
    """
    if isinstance(forget, Mapping) and isinstance(retain, Mapping):
        if forget.keys() != retain.keys():
            odd = ", ".join(sorted(map(str, forget.keys() ^ retain.keys())))
            raise RetainFirstError(f"forget and retain have different keys: only one of them has {odd}")
        names = [str(key) for key in forget]
        pairs = [(forget[key], retain[key]) for key in forget]
    elif isinstance(forget, (list, tuple)) and isinstance(retain, (list, tuple)):
        if len(forget) != len(retain):
            raise RetainFirstError(f"{len(forget)} forget gradients but {len(retain)} retain gradients")
        names, pairs = [f"tensor {i}" for i in range(len(forget))], list(zip(forget, retain, strict=True))
    else:
        names, pairs = ["gradient"], [(forget, retain)]
    parts = [_flat(name, f, r) for name, (f, r) in zip(names, pairs, strict=True) if f is not None or r is not None]
    if not parts:
        raise RetainFirstError("there are no gradients; give at least one tensor or array for each task")
    if len(kinds := {part[0].dtype.name for part in parts}) > 1:
        raise RetainFirstError(f"the gradients are {', '.join(sorted(kinds))}; cast them to one format")
    f, r = (np.concatenate(several) for several in zip(*parts, strict=True))
    for task, x in (("forget", f), ("retain", r)):
        if not np.isfinite(x).all():
            raise RetainFirstError(f"the {task} gradient holds NaN or infinity")
    return f, r


def _flat(name: str, forget: Any, retain: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    forget = np.zeros_like(_array(name, retain)) if forget is None else _array(name, forget)
    retain = np.zeros_like(forget) if retain is None else _array(name, retain)
    if (forget.shape, forget.dtype) != (retain.shape, retain.dtype):
        found = " and ".join(
            f"{task} is {x.dtype} of shape {x.shape}" for task, x in (("forget", forget), ("retain", retain))
        )
        raise RetainFirstError(f"{name}: {found}; both must be the same")
    return forget.reshape(-1), retain.reshape(-1)


def _array(name: str, gradient: Any) -> NDArray[Any]:
    if isinstance(gradient, Tensor):
        gradient = as_array(gradient).reshape(gradient.shape)
    if not isinstance(gradient, np.ndarray):
        kind = type(gradient).__name__
        raise RetainFirstError(
            f"{name}: a {kind}; give two tensors or arrays, or two lists, tuples or mappings of them"
        )
    if gradient.dtype.name not in FORMATS:
        raise RetainFirstError(f"{name}: {gradient.dtype} is none of {', '.join(FORMATS)}; cast it")
    return np.ascontiguousarray(gradient)
