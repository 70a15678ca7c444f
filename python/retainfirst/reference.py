"""The combination rules on flat numpy arrays, computed by the Rust core: what other implementations are held against.

With them comes the exact oracle, :func:`dot`, :func:`dot_sign` and :func:`compare_cosines`, which judges an update without
rounding.

Arrays are float64, float32, float16 or bfloat16 (``ml_dtypes.bfloat16``), one-dimensional and contiguous; nothing is cast.
How each rule rounds is fixed: the element-wise rules compute in the arrays' dtype (16-bit formats in float32) and round each
operation once, without a fused multiply-add; PCGrad and BLUR compute in float64 and round once to the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from retainfirst import _rust
from retainfirst.errors import DtypeMismatch, RetainFirstError, ShapeMismatch, UnknownCombiner, did_you_mean

__all__ = ["RULES", "Geometry", "combine", "compare_cosines", "dot", "dot_sign", "geometry"]

RULES = ("sum", "pcgrad", "sago", "sago_keep_retain", "blur")
"""The names that :func:`combine` takes."""

# For each dtype the n of its smallest number above 0, 2**-n.
_DTYPES = {"float64": 1074, "float32": 149, "float16": 24, "bfloat16": 133}


@dataclass(frozen=True)
class Geometry:
    """Lengths of and angles between a forget gradient, a retain gradient and an update.

    Attributes:
        cos_forget_retain: Cosine of forget and retain, in [-1, 1]; NaN if either is zero.
        cos_update_retain: Cosine of update and retain, likewise.
        cos_update_forget: Cosine of update and forget, likewise.
        norm_forget: Euclidean length of forget.
        norm_retain: Euclidean length of retain.
        norm_update: Euclidean length of the update.
        conflict_fraction: Share of coordinates, in [0, 1], where forget and retain have opposite signs.
    """

    cos_forget_retain: float
    cos_update_retain: float
    cos_update_forget: float
    norm_forget: float
    norm_retain: float
    norm_update: float
    conflict_fraction: float


def combine(
    forget: NDArray[Any],
    retain: NDArray[Any],
    name: str,
    alpha: float = 1.0,
    gamma: float = 1.0,
    groups: Iterable[tuple[int, int]] | None = None,
) -> NDArray[Any]:
    """Return the update of a rule (Xiao et al., "Modeling LLM Unlearning as an Asymmetric Two-Task Learning Problem", 2026).

    Args:
        forget: Forget gradient, shape ``[n]``.
        retain: Retain gradient, shape ``[n]``, same dtype.
        name: One of :data:`RULES`.
        alpha: Weight of retain, finite and above 0.
        gamma: Weight of forget, finite and at least 0.
        groups: ``(start, stop)`` pairs that cover ``0..n`` without overlap, in any order: PCGrad and BLUR decide for each
            by itself. ``None``: one group.

    Returns:
        A new array, shape ``[n]``, of the same dtype.

    Raises:
        UnknownCombiner: The name is not one of :data:`RULES`.
        DtypeMismatch: A dtype is not one of the four, or the two differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: A weight is out of range, an array is not contiguous, or the groups are no partition.
    """
    if name not in RULES:
        raise UnknownCombiner(f"Unknown combiner {name!r}. {did_you_mean(str(name), RULES)}")
    _check(forget=forget, retain=retain)
    try:
        update, _ = _rust.combine(name, forget, retain, alpha, gamma, _whole(groups, forget))
    except _rust.RustError as error:
        raise RetainFirstError(str(error)) from error
    return update


@overload
def geometry(forget: NDArray[Any], retain: NDArray[Any], update: NDArray[Any], groups: None = None) -> Geometry: ...
@overload
def geometry(
    forget: NDArray[Any], retain: NDArray[Any], update: NDArray[Any], groups: Iterable[tuple[int, int]]
) -> list[Geometry]: ...
def geometry(
    forget: NDArray[Any],
    retain: NDArray[Any],
    update: NDArray[Any],
    groups: Iterable[tuple[int, int]] | None = None,
) -> Geometry | list[Geometry]:
    """Measure an update, whoever made it.

    The sums are kept wide and scaled, so that neither the largest nor the smallest float64 breaks a cosine.

    Args:
        forget: Forget gradient, shape ``[n]``.
        retain: Retain gradient, shape ``[n]``, same dtype.
        update: The update, shape ``[n]``, same dtype.
        groups: ``(start, stop)`` pairs that cover ``0..n`` without overlap, in any order. ``None``: one group.

    Returns:
        The geometry of the whole arrays, or with ``groups`` a list of one for each.

    Raises:
        DtypeMismatch: A dtype is not one of the four, or two differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: An array is not contiguous, or the groups are no partition.
    """
    _check(forget=forget, retain=retain, update=update)
    try:
        table = _rust.geometry(forget, retain, update, _whole(groups, forget))
    except _rust.RustError as error:
        raise RetainFirstError(str(error)) from error
    rows = [_geometry(row) for row in table.tolist()]
    return rows[0] if groups is None else rows


def dot(update: NDArray[Any], retain: NDArray[Any]) -> Fraction:
    """Return the dot product of two arrays, with no rounding at all.

    Args:
        update: Shape ``[n]``, every element finite.
        retain: Shape ``[n]``, same dtype, likewise.

    Returns:
        The dot product of the numbers stored. 0 for a zero vector and for ``n == 0``.

    Raises:
        DtypeMismatch: A dtype is not one of the four, or the two differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: An element is NaN or infinite, or an array is not contiguous.
    """
    _check(update=update, retain=retain)
    try:
        product = _rust.dot(update, retain)
    except _rust.RustError as error:
        raise RetainFirstError(str(error)) from error
    return Fraction(int.from_bytes(product, "little", signed=True), 1 << 2 * _DTYPES[update.dtype.name])


def dot_sign(update: NDArray[Any], retain: NDArray[Any]) -> int:
    """Return the sign of the dot product of two arrays, with no rounding at all.

    The products are summed as whole numbers, so that cancellation, overflow, underflow and the order of the elements play no
    part: a result of 0 means that the dot product of the numbers stored is exactly 0.

    Args:
        update: Shape ``[n]``, every element finite.
        retain: Shape ``[n]``, same dtype, likewise.

    Returns:
        -1, 0 or 1. 0 for a zero vector and for ``n == 0``.

    Raises:
        DtypeMismatch: A dtype is not one of the four, or the two differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: An element is NaN or infinite, or an array is not contiguous.
    """
    _check(update=update, retain=retain)
    try:
        return _rust.dot_sign(update, retain)
    except _rust.RustError as error:
        raise RetainFirstError(str(error)) from error


def compare_cosines(first: NDArray[Any], second: NDArray[Any], retain: NDArray[Any]) -> int:
    """Tell which of two updates is closer in angle to the retain gradient, with no rounding at all.

    The cosines themselves are irrational as a rule and are not computed. With the dot products x and y of the two updates and
    retain, their order is that of the signs of x and y, or else that of the whole numbers ``x|x| * |second|**2`` and
    ``y|y| * |first|**2``.

    Args:
        first: Shape ``[n]``, every element finite, not all zero.
        second: Shape ``[n]``, same dtype, likewise.
        retain: Shape ``[n]``, same dtype, likewise.

    Returns:
        -1, 0 or 1 as ``cos(first, retain)`` is below, equal to or above ``cos(second, retain)``.

    Raises:
        DtypeMismatch: A dtype is not one of the four, or two differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: An element is NaN or infinite, an array is zero, so that its cosine is undefined, or an array is not
            contiguous.
    """
    _check(first=first, second=second, retain=retain)
    try:
        return _rust.compare_cosines(first, second, retain)
    except _rust.RustError as error:
        raise RetainFirstError(str(error)) from error


def _check(**arrays: NDArray[Any]) -> None:
    """Hold every array against the first one."""
    leader, lead = next(iter(arrays.items()))
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise RetainFirstError(f"{name}: a {type(array).__name__}; give a numpy array")
        if array.dtype.name not in _DTYPES:
            raise DtypeMismatch(f"{name}: dtype {array.dtype} is not one of {', '.join(_DTYPES)}; convert it first")
        if array.dtype != lead.dtype:
            raise DtypeMismatch(f"{name}: dtype {array.dtype}, but {leader} has {lead.dtype}; both must be the same")
        if array.ndim != 1:
            raise ShapeMismatch(f"{name}: {array.ndim} dimensions; give a flat array, such as {name}.ravel()")
        if array.shape != lead.shape:
            raise ShapeMismatch(f"{name}: length {len(array)}, but {leader} has {len(lead)}; both must be the same")


def _whole(groups: Iterable[tuple[int, int]] | None, array: NDArray[Any]) -> list[tuple[int, int]]:
    return [(0, len(array))] if groups is None else list(groups)


def _geometry(row: list[float]) -> Geometry:
    ff, rr, fr, conflicts, count, ef, er, uu, ur, uf, eu = row
    return Geometry(
        cos_forget_retain=_cosine(fr, ff, rr),
        cos_update_retain=_cosine(ur, uu, rr),
        cos_update_forget=_cosine(uf, uu, ff),
        norm_forget=_norm(ff, ef),
        norm_retain=_norm(rr, er),
        norm_update=_norm(uu, eu),
        conflict_fraction=conflicts / max(count, 1.0),
    )


def _cosine(dot: float, left: float, right: float) -> float:
    lengths = math.sqrt(left) * math.sqrt(right)
    if lengths == 0 or not math.isfinite(lengths):
        return math.nan
    # Rounding may carry the quotient of parallel vectors past 1.
    return max(-1.0, min(1.0, dot / lengths))


def _norm(square: float, exponent: float) -> float:
    try:
        return math.ldexp(math.sqrt(square), int(exponent))
    except OverflowError:
        return math.inf
