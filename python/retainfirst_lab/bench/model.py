"""The model of the step and memory benchmarks, and a training step by each method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from retainfirst.errors import RetainFirstError, did_you_mean, require
from retainfirst.step import Guard, TwoTaskStep
from retainfirst_lab.bench.timing import Stopwatch
from retainfirst_lab.bench.trainers import TRAINERS, make_trainer_step

__all__ = ["GUARDED", "GUARDS", "MODES", "Shape", "make_guarded", "make_model", "make_step"]

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

GUARDS: dict[str, dict[str, Any]] = {"measure": {"every": 1}, "enforce": {"enforce": True, "every": 0}}
"""Guards by name, with their options of :meth:`retainfirst.TwoTaskStep.guard`."""

GUARDED = {
    f"{rule}, AdamW" + (f", {guard}" if guard else ""): (rule, guard)
    for rule in ("sago", "pcgrad")
    for guard in ("", *GUARDS)
}
"""Steps of AdamW, with the combiner and the guard; the first of each combiner has none."""


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
        case: ``plain``, ``plain, one by one``, one of :data:`~retainfirst_lab.bench.trainers.TRAINERS` (one microbatch), or a key
            of :data:`MODES` or of :data:`GUARDED`; the latter also moves the model.
        shape: Of the batches.

    Raises:
        RetainFirstError: There is no such case.
    """
    if case in GUARDED:
        rule, guard = GUARDED[case]
        training = make_guarded(model, rule, shape)
        training.set_guard(guard)
        return training.run
    tokens, loss = _tokens(model, shape), partial(_loss, model)
    if case in TRAINERS:
        return make_trainer_step(model, case, tokens[0])

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
        raise RetainFirstError(f"Unknown case {case!r}. {did_you_mean(case, [*known, *MODES, *GUARDED, *TRAINERS])}")
    two_task = TwoTaskStep(model, case.partition(",")[0], **MODES[case])

    def separate() -> None:
        _combine(model, two_task, tokens)
        model.zero_grad()

    return separate


@dataclass
class Guarded:
    """Training steps with AdamW.

    Attributes:
        model: Of :func:`make_model`.
        step: Combines its gradients.
        optimizer: Moves it.
        tokens: Of each step.
        stopwatch: Times what the guard does within a step.
    """

    model: Any
    step: TwoTaskStep
    optimizer: torch.optim.Optimizer
    tokens: Tensor
    stopwatch: Stopwatch
    _guard: Guard | None = None
    _hooks: list[Any] = field(default_factory=list)

    def run(self) -> None:
        """Make one step."""
        _combine(self.model, self.step, self.tokens)
        self.optimizer.step()
        self.model.zero_grad()

    def set_guard(self, name: str) -> None:
        """Set a guard of :data:`GUARDS` in the place of the last; "": none; ``idle``: one that does nothing yet."""
        if self._guard is not None:
            self._guard.remove()
        for hook in self._hooks:
            hook.remove()
        options = {"every": 0} if name == "idle" else GUARDS.get(name)
        if options is None:
            self._guard, self._hooks = None, []
            return
        # Hooks run in the order in which they were set: these stand around the guard's.
        starts = self._at_step(self.stopwatch.start)
        guard = self._guard = self.step.guard(self.optimizer, **options)
        self._hooks = starts + self._at_step(self.stopwatch.stop)
        for part in ("begin", "keep", "finish"):
            setattr(guard, part, self.stopwatch.timed(getattr(guard, part)))

    def _at_step(self, call: Callable[[], None]) -> list[Any]:
        def hook(*_: object) -> None:
            call()

        return [self.optimizer.register_step_pre_hook(hook), self.optimizer.register_step_post_hook(hook)]


def make_guarded(model: Any, rule: str, shape: Shape) -> Guarded:
    """Return training steps with AdamW, without a guard.

    Args:
        model: Of :func:`make_model`.
        rule: The combiner's name.
        shape: Of the batches.
    """
    # Its size does not matter here; a small rate keeps the losses finite.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    return Guarded(model, TwoTaskStep(model, rule), optimizer, _tokens(model, shape), Stopwatch(str(model.device)))


def _tokens(model: Any, shape: Shape) -> Tensor:
    """Token ids of the forget and the retain rows of each microbatch."""
    size = shape.micro_batches, 2, shape.batch, shape.length
    return torch.randint(model.config.vocab_size, size, generator=torch.Generator().manual_seed(1)).to(model.device)


def _loss(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return found


def _combine(model: Any, step: TwoTaskStep, tokens: Tensor) -> None:
    for forget, retain in tokens:
        with step.forget():
            (-_loss(model, forget)).backward()  # type: ignore[no-untyped-call]
        with step.retain():
            _loss(model, retain).backward()  # type: ignore[no-untyped-call]
    step.combine()
