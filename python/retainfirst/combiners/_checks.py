"""Checks of weights and gradients, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from numbers import Real
from operator import attrgetter, eq

import torch
from torch import Tensor

from retainfirst.errors import DtypeMismatch, RetainFirstError, ShapeMismatch
from retainfirst.kernels import Tensors

__all__ = ["check_float32", "check_fraction", "check_in_place", "check_pair", "check_pairs", "check_weight"]

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SHAPE = attrgetter("shape")
_FEW = 16


def check_weight(combiner: str, weight: str, value: object) -> float:
    """Return a weight as a float.

    Args:
        combiner: The combiner, for the error.
        weight: ``"alpha"``, which must be above 0, or ``"gamma"``, which must be at least 0.
        value: Any real number.

    Raises:
        RetainFirstError: It is no number, not finite, or out of range.
    """
    number = _as_float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and weight == "alpha"):
        least = "above 0" if weight == "alpha" else "at least 0"
        raise RetainFirstError(f"{combiner}: {weight} must be a finite number {least}, not {value!r}")
    return number


def check_fraction(combiner: str, option: str, value: object) -> float:
    """Return an option as a float in [0, 1).

    Raises:
        RetainFirstError: It is no number, or out of range.
    """
    number = _as_float(value)
    if not 0 <= number < 1:
        raise RetainFirstError(f"{combiner}: {option} must be a number from 0 to below 1, not {value!r}")
    return number


@lru_cache(maxsize=16)  # rounding a number by torch takes as long as combining many small tensors
def check_float32(weight: str, value: float) -> None:
    """Refuse a weight that float32 cannot hold.

    Raises:
        RetainFirstError: A weight that is not zero becomes zero or infinite.
    """
    rounded = torch.tensor(value, dtype=torch.float32, device="cpu").item()
    if not math.isfinite(rounded) or (rounded == 0) != (value == 0):
        raise RetainFirstError(
            f"{weight}={value!r} becomes {rounded} in float32; choose a weight that float32 can hold"
        )


def check_in_place(combiner: str, forget: Sequence[Tensor], retain: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
    """Return the gradients, or refuse them if the update cannot overwrite the retain gradients.

    Args:
        combiner: The combiner, for the error.
        forget: The forget gradients.
        retain: The retain gradients, to be overwritten.

    Raises:
        ShapeMismatch: Lengths or shapes differ, or a retain gradient shares memory with itself or another tensor.
        DtypeMismatch: See :func:`check_pair`.
    """
    forget, retain = Tensors(forget), Tensors(retain)
    if len(forget) != len(retain):
        raise ShapeMismatch(
            f"{combiner}: {len(forget)} forget gradients but {len(retain)} retain gradients; give one of each a tensor"
        )
    for i in _suspects(forget, retain, lambda f, r: _alike(f, r, same_device=True) and _apart(f, r)):
        check_pair(combiner, f"tensor {i}", forget[i], retain[i])
        _check_writable(combiner, f"tensor {i}", forget[i], retain[i])
    _check_places(combiner, forget, retain)
    return forget, retain


def check_pairs(
    combiner: str, names: Sequence[str], forget: Sequence[Tensor], retain: Sequence[Tensor], *, same_device: bool = True
) -> tuple[Tensors, Tensors]:
    """Return pairs of gradients, or refuse them, with their names, as :func:`check_pair` does."""
    forget, retain = Tensors(forget), Tensors(retain)
    for i in _suspects(forget, retain, lambda f, r: _alike(f, r, same_device)):
        check_pair(combiner, names[i], forget[i], retain[i], same_device=same_device)
    return forget, retain


def _suspects(forget: Tensors, retain: Tensors, fit: Callable[[Tensors, Tensors], bool]) -> Iterator[int]:
    """Yield the indices of pairs to check one by one: none if all fit, else each batch of a few that does not."""
    if fit(forget, retain):
        return
    for start in range(0, len(retain), _FEW):
        few = slice(start, start + _FEW)
        if not fit(Tensors(forget[few]), Tensors(retain[few])):
            yield from range(start, min(start + _FEW, len(retain)))


def _alike(forget: Tensors, retain: Tensors, same_device: bool) -> bool:
    """Whether all pairs are certainly in order; a quick test before the slow search for a fault."""
    return (
        forget.plain
        and retain.plain
        and forget.dtypes == retain.dtypes
        and {*retain.dtypes}.issubset(_DTYPES)
        and all(map(eq, map(_SHAPE, forget), map(_SHAPE, retain)))
        and (not same_device or (forget.on_cpu and retain.on_cpu) or forget.devices == retain.devices)
    )


def _apart(forget: Tensors, retain: Tensors) -> bool:
    """Whether no pair of contiguous tensors of equal sizes shares memory, and none is empty."""
    return all(
        abs(f - r) >= size * dtype.itemsize > 0
        for f, r, size, dtype in zip(forget.addresses, retain.addresses, retain.sizes, retain.dtypes, strict=True)
    )


def check_pair(
    combiner: str, name: str, forget: object, retain: object, *, same_device: bool = True
) -> tuple[Tensor, Tensor]:
    """Return a pair of gradients, or refuse a pair that cannot be combined.

    Args:
        combiner: The combiner, for the error.
        name: The parameter, likewise.
        forget: The forget gradient.
        retain: The retain gradient.
        same_device: Refuse two that are on different devices.

    Raises:
        ShapeMismatch: The shapes differ.
        DtypeMismatch: Dtypes or devices differ, or the dtype or layout is unsupported.
    """
    forget, retain = (
        _check_tensor(combiner, f"{name}: the {task} gradient", x)
        for task, x in (("forget", forget), ("retain", retain))
    )
    if forget.shape != retain.shape:
        raise ShapeMismatch(f"{combiner}: {name}: forget has shape {tuple(forget.shape)}, retain {tuple(retain.shape)}")
    if forget.dtype != retain.dtype:
        raise DtypeMismatch(f"{combiner}: {name}: forget is {forget.dtype}, retain {retain.dtype}; cast one of them")
    if forget.dtype not in _DTYPES:
        raise DtypeMismatch(
            f"{combiner}: {name}: {forget.dtype} is unsupported; use float64, float32, float16 or bfloat16"
        )
    if same_device and forget.device != retain.device:
        raise DtypeMismatch(
            f"{combiner}: {name}: forget is on {forget.device}, retain on {retain.device}; move one of them"
        )
    return forget, retain


def _check_tensor(combiner: str, what: str, gradient: object) -> Tensor:
    if not isinstance(gradient, Tensor):
        raise DtypeMismatch(f"{combiner}: {what} is a {type(gradient).__name__}, not a torch tensor")
    if hasattr(gradient, "device_mesh"):
        raise DtypeMismatch(
            f"{combiner}: {what} is a sharded DTensor, which this version does not combine; give its local parts"
        )
    if gradient.layout != torch.strided:
        raise DtypeMismatch(f"{combiner}: {what} is {gradient.layout}; only dense gradients are supported")
    return gradient


def _check_writable(combiner: str, name: str, forget: Tensor, retain: Tensor) -> None:
    if _overlap(forget, retain):
        raise ShapeMismatch(
            f"{combiner}: {name}: forget and retain share memory, and the update would overwrite both; clone one"
        )
    if any(stride == 0 and size > 1 for stride, size in zip(retain.stride(), retain.shape, strict=True)):
        raise ShapeMismatch(
            f"{combiner}: {name}: retain is expanded, so several elements share one place; call contiguous() first"
        )


def _check_places(combiner: str, forget: Tensors, retain: Tensors) -> None:
    """Refuse retain gradients that begin where another one does, or where a forget gradient of another pair does."""
    places = retain.addresses
    if len(set(places)) == len(places) and set(places).isdisjoint(forget.addresses):
        return
    first: dict[int, int] = {}
    for i, (place, r) in enumerate(zip(places, retain, strict=True)):
        # Empty tensors and tensors without data have no address.
        if place and r.numel() and first.setdefault(place, i) != i:
            raise ShapeMismatch(
                f"{combiner}: retain gradients {first[place]} and {i} share memory, and would be combined twice; clone one"
            )
    for i, f in enumerate(forget):
        if f.data_ptr() in first and f.numel():
            raise ShapeMismatch(
                f"{combiner}: forget gradient {i} and retain gradient {first[f.data_ptr()]} share memory, and the update would"
                " overwrite both; clone one"
            )


def _as_float(value: object) -> float:
    """Return a real number as a float; NaN for any other object, infinity for a number that is too large."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share an element, judged by addresses: contiguous ones exactly, others by their start."""
    if not a.numel() or a.device.type == "meta" or a.device != b.device:
        return False
    first, second = a.data_ptr(), b.data_ptr()
    if not (a.is_contiguous() and b.is_contiguous()):
        return first == second
    return first < second + b.nbytes and second < first + a.nbytes
