"""A trainer's own loss, taken apart into its forget and its retain loss, without a line for any one method.

The framework's trainers compute ``gamma * forget_loss + alpha * self.compute_retain_loss(...)`` in one ``compute_loss``. With
``compute_retain_loss`` giving 0 and ``gamma`` being 1 that is the forget loss alone; and what ``compute_retain_loss`` was asked
for is kept, so that the retain loss can be computed afterwards, on its own graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.errors import RetainFirstError

__all__ = ["SplitLoss", "loss_hook", "reason_against"]


class SplitLoss:
    """Goes before a trainer of the framework in a class's bases."""

    _alone = False
    _asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def forget_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Return the forget loss of a batch, unweighted, and keep what the retain loss would have been asked for."""
        me: Any = self
        self._asked = None
        with self._forget_alone():
            loss: Tensor = getattr(me, loss_hook(type(me)))(model, inputs)
        return loss

    def retain_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Return the retain loss of the same batch, unweighted."""
        me: Any = self
        arguments, options = self._asked or ((), {"model": model, "retain_inputs": _model_inputs(inputs["retain"])})
        self._asked = None  # which holds the batch
        loss: Tensor = me.compute_retain_loss(*arguments, **options)
        return loss

    def compute_retain_loss(self, *arguments: Any, **options: Any) -> Any:
        """As the trainer does; 0 while the forget loss is taken alone."""
        if not self._alone:
            return super().compute_retain_loss(*arguments, **options)  # type: ignore[misc]
        self._asked = arguments, options
        model: Any = options.get("model", arguments[0] if arguments else None)
        return torch.zeros((), device=next(model.parameters()).device)

    @contextmanager
    def _forget_alone(self) -> Iterator[None]:
        me: Any = self
        gamma, me.gamma, self._alone = me.gamma, 1.0, True
        try:
            yield
        finally:
            me.gamma, self._alone = gamma, False


def loss_hook(trainer: type) -> str:
    """Return the name of the method that computes an unlearning trainer's loss; later versions of the framework renamed it."""
    return "compute_unlearn_loss" if hasattr(trainer, "compute_unlearn_loss") else "compute_loss"


def reason_against(trainer: type) -> str | None:
    """Return why a trainer's loss cannot be taken apart; None if it can.

    Args:
        trainer: A class of the framework's registry.
    """
    hook = loss_hook(trainer)
    code = getattr(inspect.unwrap(getattr(trainer, hook)), "__code__", None)
    if code is None:
        return f"its {hook} is no plain function, so what it does cannot be seen"
    names, constants = _mentioned(code)
    if hasattr(trainer, "compute_retain_loss"):
        if "compute_retain_loss" not in names:
            return f"its {hook} does not call compute_retain_loss, so the retain loss cannot be taken out of it"
        if not ("gamma" in names or "final_loss_value" in names):
            return f"its {hook} weighs the forget loss by something else than self.gamma"
        return None
    if "forget" not in constants:
        return f"its {hook} does not read inputs['forget']: it is no unlearning trainer"
    if "retain" in constants:
        return f"its {hook} computes a retain loss itself instead of calling compute_retain_loss"
    return None


def _mentioned(code: CodeType) -> tuple[set[str], set[Any]]:
    """Return the names and constants of a function and of what is defined inside it."""
    names, constants = set(code.co_names), {one for one in code.co_consts if isinstance(one, str)}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more_names, more_constants = _mentioned(inner)
            names, constants = names | more_names, constants | more_constants
    return names, constants


def _model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the framework gives a model of a batch."""
    missing = [key for key in ("input_ids", "attention_mask", "labels") if key not in batch]
    if missing:
        raise RetainFirstError(f"the batch's retain part has no {', '.join(missing)}, only {sorted(batch)}")
    return {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
