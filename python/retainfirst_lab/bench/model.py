"""The model of the step and memory benchmarks, and a training step by each method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retainfirst.errors import RetainFirstError, did_you_mean, require
from retainfirst.step import TwoTaskStep

__all__ = ["MODES", "Shape", "make_model", "make_step"]

_LLAMA = {
    "vocab_size": 8192,
    "hidden_size": 640,
    "intermediate_size": 1728,
    "num_hidden_layers": 8,
    "num_attention_heads": 10,
}
_SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}

MODES: dict[str, dict[str, Any]] = {
    "sago": {},
    "pcgrad": {},
    "sago, stream": {"stream": True},
    "sago, offload": {"offload": "cpu"},
}
"""Methods by name, with their options of :class:`~retainfirst.TwoTaskStep`.

The baselines are ``plain``, which adds the two losses and runs one backward pass, and ``plain, one by one``, which runs one
backward pass for each loss, so that one activation graph is alive at a time.
"""


@dataclass(frozen=True)
class Shape:
    """Rows, tokens per row, and microbatches per step."""

    batch: int = 4
    length: int = 128
    micro_batches: int = 1


def make_model(device: str, *, small: bool = False) -> Any:
    """Return a random float32 Llama of 50 M parameters (``small``: about ten thousand).

    Raises:
        MissingDependency: transformers is not installed.
    """
    library = require("transformers", "hf")
    torch.manual_seed(0)
    config = library.LlamaConfig(**(_SMALL if small else _LLAMA))
    return library.LlamaForCausalLM(config).train().to(device)


def make_step(model: Any, case: str, shape: Shape) -> Callable[[], None]:
    """Return a function that computes the gradient of one step and clears it.

    Args:
        model: Of :func:`make_model`.
        case: ``plain``, ``plain, one by one`` or a key of :data:`MODES`.
        shape: Of the batches.

    Raises:
        RetainFirstError: There is no such case.
    """
    size = shape.micro_batches, 2, shape.batch, shape.length
    tokens = torch.randint(model.config.vocab_size, size, generator=torch.Generator().manual_seed(1)).to(model.device)

    def loss(ids: Tensor) -> Tensor:
        found: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
        return found

    def plain() -> None:
        for forget, retain in tokens:
            (-loss(forget) + loss(retain)).backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    def one_by_one() -> None:
        for forget, retain in tokens:
            (-loss(forget)).backward()  # type: ignore[no-untyped-call]
            loss(retain).backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    if case in (known := {"plain": plain, "plain, one by one": one_by_one}):
        return known[case]
    if case not in MODES:
        raise RetainFirstError(f"Unknown case {case!r}. {did_you_mean(case, [*known, *MODES])}")
    two_task = TwoTaskStep(model, case.partition(",")[0], **MODES[case])

    def separate() -> None:
        for forget, retain in tokens:
            with two_task.forget():
                (-loss(forget)).backward()  # type: ignore[no-untyped-call]
            with two_task.retain():
                loss(retain).backward()  # type: ignore[no-untyped-call]
        two_task.combine()
        model.zero_grad()

    return separate
