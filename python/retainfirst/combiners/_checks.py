"""What is refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, eq

import torch
from torch import Tensor

from retainfirst.errors import DtypeMismatch, ShapeMismatch
from retainfirst.kernels import Tensors

__all__ = ["check_in_place", "check_pair", "check_pairs"]

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SHAPE = attrgetter("shape")
_FEW = 16


def check_in_place(rule: str, forget: Sequence[Tensor], retain: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
    """Return the gradients, or refuse them if they cannot be combined with the update in the retain gradients' place.

    Args:
        rule: The rule, for the error.
        forget: The forget gradients.
        retain: The retain gradients, to be overwritten.

    Raises:
        ShapeMismatch: Lengths or shapes differ, or a retain gradient shares memory with itself or another tensor.
        DtypeMismatch: See :func:`check_pair`.
    """
    forget, retain = Tensors(forget), Tensors(retain)
    if len(forget) != len(retain):
        raise ShapeMismatch(
            f"{rule}: {len(forget)} forget gradients but {len(retain)} retain gradients; give one of each a tensor"
        )
    for i in _in_doubt(forget, retain, lambda f, r: _alike(f, r, same_device=True) and _apart(f, r)):
        check_pair(rule, f"tensor {i}", forget[i], retain[i])
        _check_writable(rule, f"tensor {i}", forget[i], retain[i])
    _check_places(rule, forget, retain)
    return forget, retain


def check_pairs(
    rule: str, names: Sequence[str], forget: Sequence[Tensor], retain: Sequence[Tensor], *, same_device: bool = True
) -> tuple[Tensors, Tensors]:
    """Return pairs of gradients, or refuse them, with their names, as :func:`check_pair` does."""
    forget, retain = Tensors(forget), Tensors(retain)
    for i in _in_doubt(forget, retain, lambda f, r: _alike(f, r, same_device)):
        check_pair(rule, names[i], forget[i], retain[i], same_device=same_device)
    return forget, retain


def _in_doubt(forget: Tensors, retain: Tensors, fit: Callable[[Tensors, Tensors], bool]) -> Iterator[int]:
    """Yield the places of pairs to be looked at one by one: none, or those of each few that do not fit together."""
    if fit(forget, retain):
        return
    for start in range(0, len(retain), _FEW):
        few = slice(start, start + _FEW)
        if not fit(Tensors(forget[few]), Tensors(retain[few])):
            yield from range(start, min(start + _FEW, len(retain)))


def _alike(forget: Tensors, retain: Tensors, same_device: bool) -> bool:
    """Whether all pairs are certain to be in order: to find what is wrong with one takes much longer."""
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
    rule: str, name: str, forget: object, retain: object, *, same_device: bool = True
) -> tuple[Tensor, Tensor]:
    """Return a pair of gradients, or refuse it if it cannot be combined.

    Args:
        rule: The rule, for the error.
        name: The parameter, likewise.
        forget: The forget gradient.
        retain: The retain gradient.
        same_device: Refuse two that are on different devices.

    Raises:
        ShapeMismatch: The shapes differ.
        DtypeMismatch: Dtypes or devices differ, or the dtype or layout is unsupported.
    """
    forget, retain = (
        _check_tensor(rule, f"{name}: the {task} gradient", x) for task, x in (("forget", forget), ("retain", retain))
    )
    if forget.shape != retain.shape:
        raise ShapeMismatch(f"{rule}: {name}: forget has shape {tuple(forget.shape)}, retain {tuple(retain.shape)}")
    if forget.dtype != retain.dtype:
        raise DtypeMismatch(f"{rule}: {name}: forget is {forget.dtype}, retain {retain.dtype}; cast one of them")
    if forget.dtype not in _DTYPES:
        raise DtypeMismatch(f"{rule}: {name}: {forget.dtype} is unsupported; use float64, float32, float16 or bfloat16")
    if same_device and forget.device != retain.device:
        raise DtypeMismatch(
            f"{rule}: {name}: forget is on {forget.device}, retain on {retain.device}; move one of them"
        )
    return forget, retain


def _check_tensor(rule: str, what: str, gradient: object) -> Tensor:
    if not isinstance(gradient, Tensor):
        raise DtypeMismatch(f"{rule}: {what} is a {type(gradient).__name__}, not a torch tensor")
    if hasattr(gradient, "device_mesh"):
        raise DtypeMismatch(
            f"{rule}: {what} is a sharded DTensor, which this version does not combine; give its local parts"
        )
    if gradient.layout != torch.strided:
        raise DtypeMismatch(f"{rule}: {what} is {gradient.layout}; only dense gradients are supported")
    return gradient


def _check_writable(rule: str, name: str, forget: Tensor, retain: Tensor) -> None:
    if _overlap(forget, retain):
        raise ShapeMismatch(
            f"{rule}: {name}: forget and retain share memory, and the update would overwrite both; clone one"
        )
    if any(stride == 0 and size > 1 for stride, size in zip(retain.stride(), retain.shape, strict=True)):
        raise ShapeMismatch(
            f"{rule}: {name}: retain is expanded, so several elements share one place; call contiguous() first"
        )


def _check_places(rule: str, forget: Tensors, retain: Tensors) -> None:
    """Refuse retain gradients that begin where another one does, or where a forget gradient of another pair does."""
    places = retain.addresses
    if len(set(places)) == len(places) and set(places).isdisjoint(forget.addresses):
        return
    first: dict[int, int] = {}
    for i, (place, r) in enumerate(zip(places, retain, strict=True)):
        # Tensors of nothing, and those without data, have no place.
        if place and r.numel() and first.setdefault(place, i) != i:
            raise ShapeMismatch(
                f"{rule}: retain gradients {first[place]} and {i} share memory, and would be combined twice; clone one"
            )
    for i, f in enumerate(forget):
        if f.data_ptr() in first and f.numel():
            raise ShapeMismatch(
                f"{rule}: forget gradient {i} and retain gradient {first[f.data_ptr()]} share memory, and the update would"
                " overwrite both; clone one"
            )


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share an element, as far as it can be told by addresses: for contiguous ones, or the same start."""
    if not a.numel() or a.device.type == "meta" or a.device != b.device:
        return False
    first, second = a.data_ptr(), b.data_ptr()
    if not (a.is_contiguous() and b.is_contiguous()):
        return first == second
    return first < second + b.nbytes and second < first + a.nbytes
