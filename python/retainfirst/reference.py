"""A reference implementation of the combiners on flat numpy arrays, in Rust.

:func:`dot`, :func:`dot_sign` and :func:`compare_cosines` compute without rounding.

Arrays are float64, float32, float16 or bfloat16 (``ml_dtypes.bfloat16``), one-dimensional and contiguous, and are never cast.
The rounding of each combiner is specified. Element-wise combiners compute in the arrays' dtype (16-bit formats in float32), and
round each operation, without a fused multiply-add. PCGrad and BLUR compute in float64 and round once to the dtype.

An installation without the compiled extension has no reference: every function raises
:class:`~retainfirst.errors.MissingDependency`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from retainfirst.errors import DtypeMismatch, RetainFirstError, ShapeMismatch, UnknownCombiner, did_you_mean
from retainfirst.extension import require_extension, rust

__all__ = ["COMBINERS", "ReferenceGeometry", "combine", "compare_cosines", "dot", "dot_sign", "geometry"]

COMBINERS = ("sum", "pcgrad", "sago", "sago_keep_retain", "blur")
"""The combiners that :func:`combine` implements."""

# The smallest number above 0 of each dtype is 2**-n.
_DTYPES = {"float64": 1074, "float32": 149, "float16": 24, "bfloat16": 133}


@dataclass(frozen=True)
class ReferenceGeometry:
    """The norms of a forget gradient, a retain gradient and an update, and the angles between them.

    Attributes:
        cos_forget_retain: Cosine of forget and retain, in [-1, 1]; NaN if either is zero.
        cos_update_retain: Cosine of update and retain, in [-1, 1]; NaN if either is zero.
        cos_update_forget: Cosine of update and forget, in [-1, 1]; NaN if either is zero.
        norm_forget: Euclidean norm of forget.
        norm_retain: Euclidean norm of retain.
        norm_update: Euclidean norm of the update.
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
    """Return the update of a combiner (Xiao et al., "Modeling LLM Unlearning as an Asymmetric Two-Task Learning Problem", 2026).

    Args:
        forget: Forget gradient, shape ``[n]``.
        retain: Retain gradient, shape ``[n]``, same dtype.
        name: One of :data:`COMBINERS`.
        alpha: Weight of retain, finite and above 0.
        gamma: Weight of forget, finite and at least 0.
        groups: ``(start, stop)`` pairs that cover ``0..n`` without overlap, in any order. PCGrad and BLUR project in each
            group. ``None``: one group.

    Returns:
        A new array, shape ``[n]``, same dtype.

    Raises:
        UnknownCombiner: The name is not one of :data:`COMBINERS`.
        DtypeMismatch: A dtype is not supported, or the dtypes differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: A weight is out of range, an array is not contiguous, or the groups do not partition the arrays.
    """
    if name not in COMBINERS:
        raise UnknownCombiner(
            f"The reference implements {', '.join(COMBINERS)}, but not {name!r}. {did_you_mean(str(name), COMBINERS)}"
        )
    _check(forget=forget, retain=retain)
    try:
        update, _ = rust.combine(name, forget, retain, alpha, gamma, _ranges(groups, forget))
    except rust.RustError as error:
        raise RetainFirstError(str(error)) from error
    return update


@overload
def geometry(
    forget: NDArray[Any], retain: NDArray[Any], update: NDArray[Any], groups: None = None
) -> ReferenceGeometry: ...
@overload
def geometry(
    forget: NDArray[Any], retain: NDArray[Any], update: NDArray[Any], groups: Iterable[tuple[int, int]]
) -> list[ReferenceGeometry]: ...
def geometry(
    forget: NDArray[Any],
    retain: NDArray[Any],
    update: NDArray[Any],
    groups: Iterable[tuple[int, int]] | None = None,
) -> ReferenceGeometry | list[ReferenceGeometry]:
    """Measure an update from any source.

    Sums are wider than float64 and scaled, so that squares neither overflow nor underflow.

    Args:
        forget: Forget gradient, shape ``[n]``.
        retain: Retain gradient, shape ``[n]``, same dtype.
        update: Update, shape ``[n]``, same dtype.
        groups: ``(start, stop)`` pairs that cover ``0..n`` without overlap, in any order. ``None``: one group.

    Returns:
        The geometry of the arrays, or with ``groups`` a list with the geometry of each group.

    Raises:
        DtypeMismatch: A dtype is not supported, or the dtypes differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: An array is not contiguous, or the groups do not partition the arrays.
    """
    _check(forget=forget, retain=retain, update=update)
    try:
        table = rust.geometry(forget, retain, update, _ranges(groups, forget))
    except rust.RustError as error:
        raise RetainFirstError(str(error)) from error
    rows = [_geometry(row) for row in table.tolist()]
    return rows[0] if groups is None else rows


def dot(update: NDArray[Any], retain: NDArray[Any]) -> Fraction:
    """Return the dot product of two arrays, without rounding.

    Args:
        update: Shape ``[n]``, every element finite.
        retain: Shape ``[n]``, same dtype, every element finite.

    Returns:
        The dot product of the stored numbers; 0 for ``n == 0``.

    Raises:
        DtypeMismatch: A dtype is not supported, or the dtypes differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: An element is NaN or infinite, or an array is not contiguous.
    """
    _check(update=update, retain=retain)
    try:
        product = rust.dot(update, retain)
    except rust.RustError as error:
        raise RetainFirstError(str(error)) from error
    return Fraction(int.from_bytes(product, "little", signed=True), 1 << 2 * _DTYPES[update.dtype.name])


def dot_sign(update: NDArray[Any], retain: NDArray[Any]) -> int:
    """Return the sign of the dot product of two arrays, without rounding.

    Products are summed as integers. A result of 0 means that the dot product of the stored numbers is exactly 0.

    Args:
        update: Shape ``[n]``, every element finite.
        retain: Shape ``[n]``, same dtype, every element finite.

    Returns:
        -1, 0 or 1; 0 for ``n == 0``.

    Raises:
        DtypeMismatch: A dtype is not supported, or the dtypes differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: An element is NaN or infinite, or an array is not contiguous.
    """
    _check(update=update, retain=retain)
    try:
        return rust.dot_sign(update, retain)
    except rust.RustError as error:
        raise RetainFirstError(str(error)) from error


def compare_cosines(first: NDArray[Any], second: NDArray[Any], retain: NDArray[Any]) -> int:
    """Compare the cosines of two updates with the retain gradient, without rounding.

    Let x and y be the dot products of the two updates and retain. If their signs are equal, the order of the cosines is that of
    the integers ``x|x| * |second|**2`` and ``y|y| * |first|**2``.

    Args:
        first: Shape ``[n]``, every element finite, not all zero.
        second: Shape ``[n]``, same dtype, every element finite, not all zero.
        retain: Shape ``[n]``, same dtype, every element finite, not all zero.

    Returns:
        -1, 0 or 1 if ``cos(first, retain)`` is below, equal to or above ``cos(second, retain)``.

    Raises:
        DtypeMismatch: A dtype is not supported, or the dtypes differ.
        ShapeMismatch: An array is not flat, or the lengths differ.
        RetainFirstError: An element is NaN or infinite, an array is zero and so has no cosine, or an array is not contiguous.
    """
    _check(first=first, second=second, retain=retain)
    try:
        return rust.compare_cosines(first, second, retain)
    except rust.RustError as error:
        raise RetainFirstError(str(error)) from error


def _check(**arrays: NDArray[Any]) -> None:
    """Check the arrays, and that dtypes and lengths are those of the first one."""
    require_extension("retainfirst.reference")
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


def _ranges(groups: Iterable[tuple[int, int]] | None, array: NDArray[Any]) -> list[tuple[int, int]]:
    return [(0, len(array))] if groups is None else list(groups)


def _geometry(row: list[float]) -> ReferenceGeometry:
    ff, rr, fr, conflicts, count, ef, er, uu, ur, uf, eu = row
    return ReferenceGeometry(
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
    # Rounding can make the quotient of parallel vectors larger than 1.
    return max(-1.0, min(1.0, dot / lengths))


def _norm(square: float, exponent: float) -> float:
    try:
        return math.ldexp(math.sqrt(square), int(exponent))
    except OverflowError:
        return math.inf


def __getattr__(name: str) -> object:
    new = {"RULES": "COMBINERS", "Geometry": "ReferenceGeometry"}.get(name)
    if new is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now {new}", DeprecationWarning, stacklevel=2)
    return globals()[new]
