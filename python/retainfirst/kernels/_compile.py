"""The eager kernels through torch.compile, which makes one pass of a piece's update and sums.

A compiled function must serve all sizes, weights and layouts: compiling takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from retainfirst.kernels._eager import CHUNK, PIECES, Piece, over_pieces, sum_dtype
from retainfirst.kernels._layout import dense as takes

__all__ = ["elementwise_", "linear_", "moments", "takes"]


def moments(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> Tensor:
    """Return the table of moments without an update; see :func:`retainfirst.kernels.moments`."""
    return _run("moments", forget, retain, [()] * len(retain))


def elementwise_(rule: str, forget: Sequence[Tensor], retain: Sequence[Tensor], alpha: float, gamma: float) -> Tensor:
    """Write an element-wise rule's update into ``retain``; see :func:`retainfirst.kernels.elementwise_`."""
    # Tensors, as numbers would be compiled in; without dimensions, so that they take part in the others' dtype as numbers do.
    device = retain[0].device
    weights = tuple(torch.full((), x, dtype=sum_dtype(device), device=device) for x in (alpha, gamma))
    return _run(rule, forget, retain, [weights] * len(retain))


def linear_(
    forget: Sequence[Tensor], retain: Sequence[Tensor], c_retain: Tensor, c_forget: Tensor, toward_retain: bool = False
) -> Tensor:
    """Write ``c_retain * r + c_forget * f`` into ``retain``; see :func:`retainfirst.kernels.linear_`."""
    work = "toward_retain" if toward_retain else "linear"
    return _run(work, forget, retain, zip(c_retain, c_forget, strict=True))


def _run(
    work: str, forget: Sequence[Tensor], retain: Sequence[Tensor], weights: Iterable[tuple[Tensor, ...]]
) -> Tensor:
    compiled = _compiled(work, retain[0].dtype, retain[0].device)

    def piece(*args: Tensor) -> tuple[Tensor | None, Tensor]:
        # The sizes 0 and 1 would be compiled by themselves, and so might views of tensors of other shapes; .data is no view.
        return compiled(*(x.data for x in args)) if args[0].numel() > 1 else PIECES[work](*args)

    return over_pieces(piece, forget, retain, weights)


@cache
def _compiled(work: str, dtype: torch.dtype, device: torch.device) -> Piece:
    """Return the compiled piece, or eager torch's where compiling fails (it takes a compiler) or rounds otherwise."""
    try:
        return _compile(work, dtype, device)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"retainfirst works in plain torch on {device}, as torch.compile fails there: {reason}", stacklevel=2
        )
        return PIECES[work]


def _compile(work: str, dtype: torch.dtype, device: torch.device) -> Piece:
    from torch._inductor import config  # not at the top, as it takes its time

    def piece(*args: Tensor) -> tuple[Tensor | None, Tensor]:
        return PIECES[work](*args)

    # What is compiled is kept with the code of a function, and no more than eight times: each gets its own code.
    piece.__code__ = piece.__code__.replace()
    # No fused multiply-add, and every rounding to a 16-bit format. Older versions have no such option.
    options: dict[str, Any] = {"emulate_precision_casts": True} if hasattr(config, "emulate_precision_casts") else {}
    compiled: Piece = torch.compile(piece, fullgraph=True, dynamic=True, options=options)
    x = torch.linspace(-3, 5, CHUNK, dtype=torch.float32, device=device).to(dtype)
    weights = [
        torch.full((), w, dtype=sum_dtype(device), device=device) for w in ((0.3, 0.7) if work != "moments" else ())
    ]
    # The first sizes decide how loops are made: loops made for a few elements take several times as long on many.
    with torch.no_grad():
        (found, _), (expected, _) = (each(x, x.flip(0), *weights) for each in (compiled, PIECES[work]))
    if found is not None and expected is not None and not torch.equal(found, expected):
        raise RuntimeError("it rounds differently than eager torch")
    return compiled
