"""Splits a trainer's own loss into its forget loss and its retain loss, whatever the method.

The framework's trainers compute ``gamma * forget_loss + alpha * self.compute_retain_loss(...)`` in one ``compute_loss``. With
``gamma = 1`` and a ``compute_retain_loss`` that returns 0, this is the forget loss. The arguments of ``compute_retain_loss`` are
kept, and the retain loss is computed from them afterwards, on a graph of its own.

The derivatives and the graph of each training batch's loss show whether it is such a sum. No source code is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from retainfirst.errors import RetainFirstError
from retainfirst.hf import transformers

__all__ = ["BorrowedRetainLoss", "OwnRetainLoss", "PreferenceLoss", "SplitLoss", "split_class"]

TOLERANCE = 0.02
"""Relative error of a check. A loss in bfloat16 has 8 bits."""


class OwnRetainLoss(RetainFirstError):
    """A trainer computes its retain loss itself, so that its loss must be split at the model's outputs instead."""


class SplitLoss:
    """Splits ``gamma * forget_loss + alpha * compute_retain_loss(...)``; goes before the framework's trainer in the bases."""

    _retain_stand_in: Tensor | None = None  # what compute_retain_loss returns while the forget loss is computed
    _retain_arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    _checked = False  # whether a batch with a finite loss has shown the two weights
    _largest = 0.0  # absolute value of the losses so far
    _unchecked: Tensor | None = None  # the last batch's loss and its derivatives, on the device

    def forget_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Return the unweighted forget loss of a batch, and keep the arguments of ``compute_retain_loss``.

        Raises:
            RetainFirstError: The loss is not the sum that this class splits.
        """
        training = torch.is_grad_enabled()
        device = next(model.parameters()).device
        gamma = torch.ones((), device=device, requires_grad=True) if training else None
        retain = torch.zeros((), device=device, requires_grad=training)
        with self._forget_alone(1.0 if gamma is None else gamma, retain):
            loss = self._whole_loss(model, inputs)
            if gamma is not None:
                self._check(loss, gamma, retain)
        return _mean(loss)

    def retain_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Return the unweighted retain loss of the batch that :meth:`forget_loss` had."""
        me: Any = self
        arguments, options = self._retain_arguments or (
            (),
            {"model": model, "retain_inputs": _model_inputs(inputs["retain"])},
        )
        self._retain_arguments = None  # it holds the batch
        return _mean(me.compute_retain_loss(*arguments, **options))

    def compute_retain_loss(self, *arguments: Any, **options: Any) -> Any:
        """Do what the trainer does; return 0 while the forget loss is computed."""
        if self._retain_stand_in is None:
            return super().compute_retain_loss(*arguments, **options)  # type: ignore[misc]
        if self._retain_arguments is not None:
            raise self._refusal("it calls compute_retain_loss more than once")
        self._retain_arguments = arguments, options
        return self._retain_stand_in

    def check_last_batch(self) -> None:
        """Compare the last batch's derivatives with those of the sum; call it before the optimizer steps.

        It waits for the device, so it is done after the backward passes; only the first batch is checked at once.

        Raises:
            RetainFirstError: The loss is not the sum that this class splits.
        """
        found, self._unchecked = self._unchecked, None
        if found is None:
            return
        loss, of_gamma, of_retain = found.tolist()
        if not math.isfinite(loss):
            return  # a comparison with NaN or infinity tells nothing
        self._largest = max(self._largest, abs(loss))
        # An error relative to the largest loss: one that is near 0 may be a sum of large terms.
        if not math.isclose(of_gamma, loss, rel_tol=0, abs_tol=TOLERANCE * self._largest):
            raise self._refusal("it weighs the forget loss by something else than self.gamma, or has a third part")
        if not math.isclose(of_retain, getattr(self, "alpha"), rel_tol=TOLERANCE):  # noqa: B009
            raise self._refusal("it weighs the retain loss by something else than self.alpha")
        self._checked = True

    def _whole_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        # While a model trains, later versions' compute_loss calls compute_unlearn_loss; otherwise it computes another loss.
        hook = "compute_loss" if model.training else _loss_hook(type(self))[1]
        loss: Tensor = getattr(self, hook)(model, inputs)
        return loss

    @contextmanager
    def _forget_alone(self, gamma: float | Tensor, retain: Tensor) -> Iterator[None]:
        me: Any = self
        usual, self._retain_arguments = me.gamma, None
        me.gamma, self._retain_stand_in = gamma, retain
        try:
            yield
        finally:
            me.gamma, self._retain_stand_in = usual, None

    def _check(self, loss: Tensor, gamma: Tensor, retain: Tensor, /) -> None:
        """Check the graph of a loss, and keep its derivatives for :meth:`check_last_batch`; this costs no backward pass."""
        if self._retain_arguments is None:
            raise OwnRetainLoss(str(self._refusal("it does not call compute_retain_loss")))
        loss = _mean(loss)
        of_gamma, of_retain = torch.autograd.grad(loss, (gamma, retain), retain_graph=True, allow_unused=True)
        if of_gamma is None:
            raise self._refusal("it weighs the forget loss by something else than self.gamma")
        if of_retain is None:
            raise self._refusal("it does not add what compute_retain_loss returns")
        if _has_third_part(loss, gamma, retain):
            raise self._refusal("it has a third part, which neither self.gamma weighs nor compute_retain_loss returns")
        self._unchecked = torch.stack([loss.detach().float(), of_gamma.float(), of_retain.float()])
        if not self._checked:
            self.check_last_batch()

    def _refusal(self, reason: str) -> RetainFirstError:
        return RetainFirstError(
            f"{type(self).__name__}: the loss cannot be split into a forget and a retain loss: {reason}"
        )


class BorrowedRetainLoss(SplitLoss):
    """For trainers that only forget (GradAscent, CEU): their loss is the forget loss, and GradDiff's retain loss is added."""

    def _whole_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        batch = _ForgetBatch(inputs)
        try:
            loss = super()._whole_loss(model, batch)
        except Exception as error:
            self._check_read(batch.read, error)
            raise
        self._check_read(batch.read)
        return loss

    def _check_read(self, keys: set[str], error: Exception | None = None) -> None:
        if "retain" in keys:
            raise OwnRetainLoss(str(self._refusal("it computes a retain loss itself"))) from error
        if "forget" not in keys:
            raise self._refusal("it does not read inputs['forget']: it is not an unlearning trainer") from error

    def _check(self, *_: Tensor) -> None:
        """All of the loss is the forget loss."""


class PreferenceLoss(SplitLoss):
    """For trainers that weigh their losses by preferences in ``final_loss_value``, and change them during the run (PDU).

    Each microbatch's preferences multiply its two losses, and the combiner's weights are 1.
    """

    preferences: list[float]
    _losses: tuple[Tensor, ...] = ()  # the forget loss

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if len(self.preferences) != 2:
            raise RetainFirstError(
                f"{type(self).__name__}: the trainer weighs {len(self.preferences)} losses by its preferences; two gradients are"
                " combined, so there must be a forget and a retain loss, and no other. Add a third loss to one of them"
            )

    def _current_weights(self) -> tuple[float, float]:
        return 1.0, 1.0

    def final_loss_value(self, losses: list[Tensor]) -> Tensor:
        """Do what the trainer does; return the forget loss while that is computed."""
        if self._retain_stand_in is None:
            whole: Tensor = super().final_loss_value(losses)  # type: ignore[misc]
            return whole
        if len(losses) != 2 or losses[1] is not self._retain_stand_in:
            raise self._refusal("final_loss_value must be given the forget loss and the retain loss, and no third one")
        self._losses = (losses[0],)
        return losses[0]

    def forget_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Return the forget loss, with a gradient that its preference multiplies."""
        self._losses = ()
        loss = super().forget_loss(model, inputs)
        self._losses = (loss.detach(),)
        return _weigh_gradient(loss, self.preferences[0])

    def retain_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Return the retain loss, likewise; the trainer then changes its preferences, once a microbatch as usual."""
        me: Any = self
        loss = super().retain_loss(model, inputs)
        preference = self.preferences[1]
        if torch.is_grad_enabled():
            me.final_loss_value([*self._losses, loss.detach()])
        return _weigh_gradient(loss, preference)

    def _check(self, loss: Tensor, *_: Tensor) -> None:
        """Check that the loss is exactly what ``final_loss_value`` returned."""
        if not self._losses:
            raise self._refusal("it does not call final_loss_value")
        if loss is not self._losses[0]:
            raise self._refusal("it has a third part beside what final_loss_value returns")


def split_class(trainer: type) -> type[SplitLoss]:
    """Return the class that splits the loss of a trainer of the framework.

    Raises:
        RetainFirstError: It has no loss of its own, or a ``training_step`` of its own, which would never be called.
    """
    owner, hook = _loss_hook(trainer)
    if owner is transformers.Trainer:
        raise RetainFirstError(f"{trainer.__name__} has transformers' own {hook}: it is not an unlearning trainer")
    for base in trainer.__mro__:
        if base is transformers.Trainer:
            break
        if "training_step" in vars(base):
            raise RetainFirstError(
                f"{trainer.__name__} has a training_step of its own ({base.__name__}.training_step), which would never be"
                " called: retainfirst takes its place. Move what it does to a callback or into compute_loss"
            )
    if not hasattr(trainer, "compute_retain_loss"):
        return BorrowedRetainLoss
    return PreferenceLoss if hasattr(trainer, "final_loss_value") else SplitLoss


class _ForgetBatch(dict[str, Any]):
    """A batch without its retain part, which records the keys that were read."""

    def __init__(self, batch: Mapping[str, Any]) -> None:
        super().__init__({key: part for key, part in batch.items() if key != "retain"})
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Do what a dict does."""
        self.read.add(key)
        return super().get(key, default)


def _loss_hook(trainer: type) -> tuple[type, str]:
    """Return the class and the name of the method with a trainer's loss; later versions of the framework renamed it."""
    for base in trainer.__mro__:
        for name in ("compute_unlearn_loss", "compute_loss"):
            if name in vars(base):
                return base, name
    raise RetainFirstError(f"{trainer.__name__} has no compute_loss: it is not a trainer")


def _has_third_part(loss: Tensor, gamma: Tensor, retain: Tensor) -> bool:
    """Return whether the graph has a path from the loss to a parameter that no product with gamma lies on.

    The search ends at each product with gamma, so in a loss that can be split it visits a few nodes.
    """
    if loss.grad_fn is None:
        return False
    of_gamma, of_retain = get_gradient_edge(gamma).node, get_gradient_edge(retain).node
    seen: set[Node] = set()
    nodes: list[Node] = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        inputs = [one for one, _ in node.next_functions if one is not None]
        if any(_source(one) is of_gamma for one in inputs):
            continue
        if not inputs and node is not of_retain:
            return True
        nodes += inputs
    return False


def _source(node: Node) -> Node:
    """Return the node at the end of a chain of nodes with one input each."""
    while True:
        inputs = [one for one, _ in node.next_functions if one is not None]
        if len(inputs) != 1:
            return node
        (node,) = inputs


def _mean(loss: Tensor) -> Tensor:
    """Return a loss without dimensions: under DataParallel a model's loss has one element for each GPU."""
    return loss.mean() if loss.dim() else loss


def _weigh_gradient(loss: Tensor, weight: float) -> Tensor:
    """Return a loss of the same value, for the log, with a gradient that the weight multiplies."""
    return weight * loss + (1 - weight) * loss.detach()


def _model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a batch that the framework passes to a model."""
    missing = [key for key in ("input_ids", "attention_mask", "labels") if key not in batch]
    if missing:
        raise RetainFirstError(f"the batch's retain part has no {', '.join(missing)}, only {sorted(batch)}")
    return {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
