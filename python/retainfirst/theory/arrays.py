"""Between torch tensors and the flat numpy arrays that the reference and the oracle take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retainfirst.errors import RetainFirstError

__all__ = ["FORMATS", "as_array", "as_tensor", "flatten"]

FORMATS: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The four formats by name."""


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's elements as a flat array of the same format, without a copy where it is dense and on the CPU."""
    flat = tensor.detach().cpu().reshape(-1)
    if flat.dtype == torch.bfloat16:  # which torch does not give to numpy
        return flat.view(torch.int16).numpy().view(FORMATS["bfloat16"])
    return flat.numpy()


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return a copy of an array as a tensor of the same format and shape."""
    if array.dtype == FORMATS["bfloat16"]:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def flatten(name: str, gradient: Any) -> NDArray[Any]:
    """Return a gradient as one flat array.

    Args:
        name: What it is, for the error's text.
        gradient: A tensor, an array, or a sequence or mapping of them, of one format.

    Raises:
        RetainFirstError: It is something else, or holds several formats.
    """
    if isinstance(gradient, Tensor):
        return as_array(gradient)
    if isinstance(gradient, np.ndarray):
        return np.ascontiguousarray(gradient).reshape(-1)
    if isinstance(gradient, Mapping):
        gradient = list(gradient.values())
    if isinstance(gradient, (list, tuple)) and gradient and all(isinstance(x, (Tensor, np.ndarray)) for x in gradient):
        parts = [flatten(name, part) for part in gradient]
        if len({part.dtype for part in parts}) == 1:
            return np.concatenate(parts)
        raise RetainFirstError(
            f"{name}: holds {', '.join(sorted({str(part.dtype) for part in parts}))}; cast to one format"
        )
    raise RetainFirstError(
        f"{name}: give a tensor, an array, or a list or mapping of them, not {type(gradient).__name__}"
    )
