"""The optimisers of torch with which the statements about steps are judged: options, number of steps, guard."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from retainfirst.theory.guards import BY_RETAIN, BY_UPDATE, JudgedGuard

__all__ = [
    "GUARDED",
    "GUARDED_BY_UPDATE",
    "MIXING",
    "PRECONDITIONED",
    "SCALED",
    "WITHOUT_MEMORY",
    "WITH_MEMORY_OR_DECAY",
    "Diagonal",
    "Run",
]

_RATE = 2.0**-4
"""Large enough that a step shows in bfloat16."""

_DECAY = 2.0**-2
_SEVERAL = 3
"""The number of steps where the steps before the judged one matter."""

_VARIANTS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


@dataclass(frozen=True)
class Run:
    """Some steps of an optimiser from a fresh state; the last step is judged.

    Attributes:
        name: Its name in tables and texts, with its options.
        family: Its name without the options.
        make: Returns the optimiser of some parameters.
        steps: The number of steps.
        guard: Works on every step; None: no guard.
        only_matrices: Whether the optimiser takes matrices only.
    """

    name: str
    family: str
    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    steps: int = 1
    guard: JudgedGuard | None = None
    only_matrices: bool = False


class Diagonal(torch.optim.Optimizer):
    """Descent with one positive factor for each coordinate, of sizes far apart: the preconditioner of T9."""

    FACTORS = (1.0, 2.0**-12, 3.0, 2.0**6, 0.3)

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Subtract the scaled gradient."""
        if closure is not None:
            raise ValueError("Diagonal takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                factors = torch.tensor(list(islice(cycle(self.FACTORS), parameter.numel())), dtype=parameter.dtype)
                parameter -= factors.reshape(parameter.shape) * parameter.grad


def _make(
    kind: Callable[..., torch.optim.Optimizer],
    options: dict[str, Any],
    narrow: dict[str, Any],
    parameters: list[Tensor],
) -> torch.optim.Optimizer:
    return kind(parameters, **options, **(narrow if parameters[0].dtype == torch.float16 else {}))


def _runs(name: str, words: str = "", *, steps: int = 1, **options: Any) -> Iterator[Run]:
    """Yield a run for each way in which torch computes this optimiser; none if this version of torch lacks it."""
    kind = getattr(torch.optim, name, None)
    if kind is None:
        return
    accepted = inspect.signature(kind).parameters
    variants = {way: extra for way, extra in _VARIANTS.items() if extra.keys() <= accepted.keys()} or {"": {}}
    # The usual eps of 1e-8 is 0 in float16, and 0 / 0 is NaN.
    narrow = {"eps": 1e-4} if isinstance(getattr(accepted.get("eps"), "default", None), float) else {}
    for way, extra in variants.items():
        about = ", ".join(filter(None, (words, way)))
        make = partial(_make, kind, {"lr": _RATE, **options, **extra}, narrow)
        yield Run(f"{name} ({about})" if about else name, name, make, steps, only_matrices=name == "Muon")


SCALED = (Run("a positive diagonal", "a positive diagonal", Diagonal, _SEVERAL),)
"""T9."""

WITHOUT_MEMORY = (
    *_runs("AdamW", "first step, no decay", weight_decay=0.0),
    *_runs("Adam", "first step"),
    *_runs("Adam", "beta1 = 0", steps=_SEVERAL, betas=(0.0, 0.999)),
    *_runs("Adamax", "first step"),
    *_runs("NAdam", "first step"),
    *_runs("RAdam", "first step"),
    *_runs("RMSprop", steps=_SEVERAL),
    *_runs("Adagrad", steps=_SEVERAL),
    *_runs("Adadelta", steps=_SEVERAL, lr=8.0),
    *_runs("Adafactor", steps=_SEVERAL),
    *_runs("SGD", steps=_SEVERAL),
    *_runs("SGD", "momentum, first step", momentum=0.9),
    *_runs("ASGD", "lambd = 0", steps=_SEVERAL, lambd=0.0),
    *_runs("Rprop", steps=_SEVERAL),
)
"""T10: no weight decay, and ``d = -P u`` with a positive diagonal ``P``. Without a word about it: at every step."""

PRECONDITIONED = (
    *_runs("AdamW", "first step, no decay", weight_decay=0.0),
    *_runs("Adadelta", "first step", lr=8.0),
    *(
        run
        for name in ("Adam", "RMSprop", "Adagrad", "Adafactor", "Adamax", "NAdam", "Rprop")
        for run in _runs(name, "first step")
    ),
)
"""X3: the first step of each optimiser that divides by the size of the gradient."""

WITH_MEMORY_OR_DECAY = (
    *_runs("AdamW", "decay", weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("Adam", "no decay", steps=_SEVERAL),
    *_runs("Adam", "decay", weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("Adamax", "decay", weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("NAdam", "decay", weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("RAdam", "decay", weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("RMSprop", "momentum, decay", momentum=0.9, weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("Adagrad", "decay", weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("Adadelta", "decay", weight_decay=_DECAY, steps=_SEVERAL, lr=8.0),
    *_runs("Adafactor", "decay", weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("SGD", "momentum", momentum=0.9, steps=_SEVERAL),
    *_runs("SGD", "momentum, Nesterov, decay", momentum=0.9, nesterov=True, weight_decay=_DECAY, steps=_SEVERAL),
    *_runs("ASGD", "lambd = 1/4", lambd=_DECAY, steps=_SEVERAL),
)
"""X4: with SAGO these oppose retain coordinates."""

MIXING = tuple(_runs("Muon", "decay", weight_decay=_DECAY, steps=_SEVERAL))
"""Every coordinate of the step depends on every coordinate of the update: no diagonal."""


def _guarded(runs: Sequence[Run], guard: JudgedGuard) -> tuple[Run, ...]:
    return tuple(replace(run, guard=guard, name=f"{run.name}, {guard.name}") for run in runs)


_ANY = (*WITH_MEMORY_OR_DECAY, *MIXING, *WITHOUT_MEMORY)
GUARDED = _guarded(_ANY, BY_RETAIN)
"""T11: every optimiser."""

GUARDED_BY_UPDATE = _guarded(_ANY, BY_UPDATE)
"""T12: every optimiser."""
