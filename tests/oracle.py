"""The combiners and the guard written out, with error bounds, comparison to the bit, and test gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from retainfirst.theory.arrays import as_array, as_tensor

ELEMENTWISE = ("sum", "sago", "sago_keep_retain")
PROJECTIONS = ("pcgrad", "blur", "orthogonal", "gru", "agem", "ngdiff")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def elementwise(name: str, f: Tensor, r: Tensor, alpha: float, gamma: float) -> Tensor:
    """The update, with weights and operations rounded to the dtype; 16-bit formats in float32 and rounded once at the end."""
    dtype = r.dtype
    if dtype in (torch.float16, torch.bfloat16):
        f, r = f.float(), r.float()
    if name == "sum":
        return (alpha * r + gamma * f).to(dtype)
    conflict = torch.sign(f) * torch.sign(r) < 0
    return torch.where(conflict, alpha * r, gamma * f if name == "sago" else alpha * r + gamma * f).to(dtype)


def elementwise_array(name: str, f: NDArray[Any], r: NDArray[Any], alpha: float, gamma: float) -> NDArray[Any]:
    """As :func:`elementwise`, of numpy arrays."""
    return as_array(elementwise(name, as_tensor(f), as_tensor(r), alpha, gamma))


def projection(name: str, f: Tensor, r: Tensor, alpha: float, gamma: float) -> Tensor:
    """The update of one group, flat, in float64."""
    f, r = f.double(), r.double()
    if name == "ngdiff":
        return alpha * r / r.norm() + gamma * f / f.norm()
    if name == "blur":
        return gamma * f + alpha * (r - (f @ r) / (f @ f) * f)
    projected = f - (f @ r) / (r @ r) * r
    if name == "orthogonal":
        return alpha * r + gamma * projected
    h = projected if f @ r < 0 else f
    return gamma * h if name in ("gru", "agem") else alpha * r + gamma * h


def coefficients(
    name: str, ff: Fraction, rr: Fraction, fr: Fraction, alpha: Fraction, gamma: Fraction
) -> tuple[Fraction, Fraction]:
    """``c_r`` and ``c_f`` of a projection ``c_r r + c_f f``, from a group's dot products. Exact; ngdiff's to 128 bits."""
    zero = Fraction()
    if name == "ngdiff":
        return alpha / root(rr) if rr else zero, gamma / root(ff) if ff else zero
    if name == "blur":
        return alpha, gamma - (alpha * fr / ff if ff else zero)
    along = fr / rr if rr else zero
    if name == "orthogonal":
        return alpha - gamma * along, gamma
    step = -gamma * min(along, zero)
    return (step if name in ("gru", "agem") else alpha + step), gamma


def exact_update(name: str, f: NDArray[Any], r: NDArray[Any], alpha: float, gamma: float) -> list[Fraction]:
    """The update of one group without rounding, one coordinate at a time."""
    fs, rs, a, g = fractions(f), fractions(r), Fraction(alpha), Fraction(gamma)
    if name in PROJECTIONS:
        c_r, c_f = coefficients(name, dot(fs, fs), dot(rs, rs), dot(fs, rs), a, g)
        return [c_r * y + c_f * x for x, y in zip(fs, rs, strict=True)]
    kept = Fraction() if name == "sago" else a
    return [a * y if x * y < 0 and name != "sum" else kept * y + g * x for x, y in zip(fs, rs, strict=True)]


def guard(before: Tensor, after: Tensor, retain: Tensor) -> Tensor:
    """The guarded step of T11: every coordinate that works against retain is back where it was, to the bit."""
    against = ((after > before) & (retain > 0)) | ((after < before) & (retain < 0))
    return torch.where(against, before, after)


def guard_by_update(before: Tensor, after: Tensor, update: Tensor) -> Tensor:
    """The guarded step of T12, for SAGO: the update stands for retain, and a zero of it puts back what moved. NaN stays."""
    zero = (update == 0) & ((after > before) | (after < before))
    return torch.where(zero, before, guard(before, after, update))


def reach(name: str, f_norm: Any, r_norm: Any, alpha: Any, gamma: Any) -> tuple[Any, Any]:
    """Upper bounds of ``|c_r|`` and ``|c_f|``, and of each term in their sums, from the two norms."""
    if name == "ngdiff":
        return (alpha / r_norm if r_norm else 0), (gamma / f_norm if f_norm else 0)
    if name == "blur":
        return alpha, gamma + (alpha * r_norm / f_norm if f_norm else 0)
    along = gamma * f_norm / r_norm if r_norm else 0
    return (along if name in ("gru", "agem") else alpha + along), gamma


def projection_bound(dtype: torch.dtype, n: int, reaches: tuple[Any, Any], number: Any = float) -> Callable[..., Any]:
    """Return ``bound(exact, f, r)``: the largest distance of a stored element from the exact one, given f and r there.

    One unit in the last place of the format: half a unit for storing, and torch's conversion from float64 to a 16-bit format by
    way of float32 may round twice. Before that, float64 arithmetic: sums of n products, and some twenty operations, each off by
    2^-53 of terms no larger than ``reach_r |r|`` and ``reach_f |f|``.

    Args:
        dtype: The format in which the update is stored.
        n: The size of the group.
        reaches: :func:`reach` of the group.
        number: ``Fraction`` for fractions, ``float`` for tensors.
    """
    info = torch.finfo(dtype)
    unit, tiny = number(info.eps), number(info.smallest_normal * info.eps)
    of_r, of_f = ((2 * n + 40) * number(2.0**-53) * number(largest) for largest in reaches)
    return lambda exact, f, r: unit * abs(exact) + of_r * abs(r) + of_f * abs(f) + tiny


def assert_projection(name: str, found: Tensor, f: Tensor, r: Tensor, alpha: float, gamma: float) -> None:
    """The update of one group, flat, is within :func:`projection_bound` of :func:`projection`."""
    exact, wide = projection(name, f, r, alpha, gamma), [x.double() for x in (f, r)]
    bound = projection_bound(found.dtype, len(f), reach(name, *(x.norm().item() for x in wide), alpha, gamma))
    assert ((found.double() - exact).abs() <= bound(exact, *wide)).all()


def fractions(x: NDArray[Any]) -> list[Fraction]:
    return [Fraction(value) for value in x.astype(np.float64).tolist()]


def dot(x: list[Fraction], y: list[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(x, y, strict=True)), Fraction())


def exact_dot(x: NDArray[Any], y: NDArray[Any]) -> Fraction:
    """The dot product of two arrays without rounding."""
    return dot(fractions(x), fractions(y))


def root(x: Fraction) -> Fraction:
    """The square root, to 128 bits or more."""
    shift = 128 + max(x.denominator.bit_length() - x.numerator.bit_length(), 0)
    return Fraction(math.isqrt((x.numerator * x.denominator) << 2 * shift), x.denominator << shift)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, or both NaN; layouts may differ."""
    a, b = a.resolve_neg().contiguous(), b.resolve_neg().contiguous()
    kind = BITS[a.dtype]
    return a.shape == b.shape and bool(((a.view(kind) == b.view(kind)) | (a.isnan() & b.isnan())).all())


def gradients(n: int, dtype: torch.dtype, seed: int = 0, ratio: float = 1.0) -> tuple[Tensor, Tensor]:
    """Two random gradients with zeros of both signs among them, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    f = torch.randn(n, generator=generator, dtype=torch.float64, device="cpu") * ratio
    r = torch.randn(n, generator=generator, dtype=torch.float64, device="cpu")
    for x, value in ((f, 0.0), (r, -0.0)):
        x[torch.rand(n, generator=generator, device="cpu") < 0.1] = value
    device = torch.get_default_device()
    return f.to(device, dtype), r.to(device, dtype)


def raw_bits(dtype: torch.dtype, n: int) -> st.SearchStrategy[Tensor]:
    """Any bits, with infinity and NaN among them."""
    size = n * torch.finfo(dtype).bits // 8
    return st.binary(min_size=size, max_size=size).map(lambda x: torch.frombuffer(bytearray(x), dtype=dtype))


@st.composite
def finite(draw: st.DrawFn, dtype: torch.dtype, n: int) -> Tensor:
    """Raw bits, with all exponents, subnormals and both zeros; or small integers; or random numbers; at any scale."""
    raw = draw(raw_bits(dtype, n))
    integers = torch.tensor(draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=torch.float64)
    normal = torch.randn(n, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))), dtype=torch.float64)
    most = math.frexp(torch.finfo(dtype).max)[1] - 4
    exponent = draw(st.integers(-most, most))
    kind = draw(st.sampled_from(["raw", "integers", "normal", "normal"]))
    x = (
        raw
        if kind == "raw"
        else torch.ldexp(normal if kind == "normal" else integers, torch.tensor(exponent)).to(dtype)
    )
    return torch.where(x.isfinite(), x, torch.ones_like(x))
