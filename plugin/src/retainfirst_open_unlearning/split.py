"""A trainer's own loss, taken apart into its forget and its retain loss, without a line for any one method.

The framework's trainers compute ``gamma * forget_loss + alpha * self.compute_retain_loss(...)`` in one ``compute_loss``. With
``compute_retain_loss`` giving 0 and ``gamma`` being 1 that is the forget loss alone; and what ``compute_retain_loss`` was asked
for is kept, so that the retain loss can be computed afterwards, on its own graph.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.errors import RetainFirstError

__all__ = ["CANNOT_BE_SPLIT", "SplitLoss", "loss_hook", "reason_against"]

CANNOT_BE_SPLIT = "cannot be split into a forget and a retain loss"


class SplitLoss:
    """Goes before a trainer of the framework in a class's bases."""

    _split_is_known = False
    """Whether the loss is known to be ``gamma * forget_loss + alpha * compute_retain_loss(...)``; else the first one is asked."""

    _alone: Tensor | None = None  # what stands for the retain loss while the forget loss is taken alone
    _asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def forget_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Return the forget loss of a batch, unweighted, and keep what the retain loss would have been asked for.

        Raises:
            RetainFirstError: The loss is no such sum. The first batch of a training shows it.
        """
        me: Any = self
        self._asked = None
        ask = not self._split_is_known and torch.is_grad_enabled()
        device = next(model.parameters()).device
        weight = torch.ones((), device=device, requires_grad=True) if ask else 1.0
        gamma, me.gamma, self._alone = me.gamma, weight, torch.zeros((), device=device, requires_grad=ask)
        try:
            loss: Tensor = getattr(me, loss_hook(type(me)))(model, inputs)
            if isinstance(weight, Tensor):
                self._check_split(loss, weight, self._alone)
        finally:
            me.gamma, self._alone = gamma, None
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
        if self._alone is None:
            return super().compute_retain_loss(*arguments, **options)  # type: ignore[misc]
        if self._asked is not None:
            raise self._refusal("it calls compute_retain_loss more than once")
        self._asked = arguments, options
        return self._alone

    def _check_split(self, loss: Tensor, gamma: Tensor, retain: Tensor) -> None:
        """Compare the loss's derivatives to both weights' places with what they are in the sum; they cost no backward pass."""
        of_gamma, of_retain = torch.autograd.grad(loss, (gamma, retain), retain_graph=True, allow_unused=True)
        if of_retain is None:
            raise self._refusal("it does not call compute_retain_loss, so the retain loss cannot be taken out of it")
        if of_gamma is None:
            raise self._refusal("it does not weigh the forget loss by self.gamma")
        value, of_forget, weight = loss.item(), of_gamma.item(), of_retain.item()
        if not math.isfinite(value):
            return  # and nothing can be told from it
        # Loose enough for a loss in bfloat16.
        if not math.isclose(of_forget, value, rel_tol=0.02):
            raise self._refusal("it weighs the forget loss by something else than self.gamma, or has a third part")
        if not math.isclose(weight, getattr(self, "alpha"), rel_tol=0.02):  # noqa: B009
            raise self._refusal("it weighs the retain loss by something else than self.alpha")
        self._split_is_known = True

    def _refusal(self, reason: str) -> RetainFirstError:
        return RetainFirstError(f"{type(self).__name__}: the loss {CANNOT_BE_SPLIT}: {reason}")


def loss_hook(trainer: type) -> str:
    """Return the name of the method that computes an unlearning trainer's loss; later versions of the framework renamed it."""
    for base in trainer.__mro__:
        for name in ("compute_unlearn_loss", "compute_loss"):
            if name in vars(base):
                return name
    raise RetainFirstError(f"{trainer.__name__} has no compute_loss: it is no trainer")


def reason_against(trainer: type) -> str | None:
    """Return why a trainer's loss cannot be taken apart, as far as its code tells; None if nothing speaks against it.

    Args:
        trainer: A class of the framework's registry.
    """
    hook = loss_hook(trainer)
    names, constants = _seen(trainer, hook)
    if hasattr(trainer, "compute_retain_loss"):
        if "compute_retain_loss" not in names:
            return f"its {hook} is not seen to call compute_retain_loss, so the retain loss cannot be taken out of it"
        if not ("gamma" in names or "final_loss_value" in names):
            return f"its {hook} weighs the forget loss by something else than self.gamma"
        return None
    if "forget" not in constants:
        return f"its {hook} does not read inputs['forget']: it is no unlearning trainer"
    if "retain" in constants:
        return f"its {hook} computes a retain loss itself instead of calling compute_retain_loss"
    return None


def _seen(trainer: type, hook: str) -> tuple[set[str], set[str]]:
    """Return the names and texts in a method, in what it extends, and in the trainer's own methods that it calls."""
    names: set[str] = set()
    constants: set[str] = set()
    wanted, looked = [hook], set()
    while wanted:
        method = wanted.pop()
        looked.add(method)
        for base in trainer.__mro__:
            code = getattr(inspect.unwrap(vars(base).get(method, None)), "__code__", None)
            if code is None:
                continue
            found, texts = _mentioned(code)
            names, constants = names | found, constants | texts
            if "super" not in found:
                break
        own = {name for base in trainer.__mro__ if base.__module__ == trainer.__module__ for name in vars(base)}
        wanted += [name for name in names & own if name not in looked and name not in wanted]
    return names, constants


def _mentioned(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the names and texts of a function and of what is defined inside it."""
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
