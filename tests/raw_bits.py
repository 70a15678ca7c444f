"""Tensors of any value that a format has, and how to look at them to the bit."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, or both NaN."""
    kind = BITS[a.dtype]
    return bool(((a.view(kind) == b.view(kind)) | (a.isnan() & b.isnan())).all())


def raw_bits(dtype: torch.dtype, n: int) -> st.SearchStrategy[Tensor]:
    """Any values, with infinity and NaN among them."""
    size = n * torch.finfo(dtype).bits // 8
    return st.binary(min_size=size, max_size=size).map(lambda x: torch.frombuffer(bytearray(x), dtype=dtype))


@st.composite
def finite(draw: st.DrawFn, dtype: torch.dtype, n: int) -> Tensor:
    """Raw bits, so that all exponents, subnormals and both zeros come; or small integers; or random numbers; at any scale."""
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
