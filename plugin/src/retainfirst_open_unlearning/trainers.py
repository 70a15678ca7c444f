"""``RetainFirst<X>``: the framework's trainer ``<X>`` with its two gradients taken apart and combined."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sized
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from retainfirst import available_combiners, make_combiner
from retainfirst.errors import RetainFirstError, UnknownCombiner, did_you_mean
from retainfirst.hf import TwoTaskTraining, transformers
from retainfirst.scope import check_scope
from retainfirst_open_unlearning.register import PREFIX
from retainfirst_open_unlearning.split import CANNOT_BE_SPLIT, SplitLoss, reason_against

__all__ = ["RetainFirstTraining", "make_trainer"]

_logger = logging.getLogger(__name__)

SMALLEST_WEIGHT = 1e-30
"""Stands for ``alpha = 0``, which some methods have as their default and no combiner takes: the retain gradient then steers the
combination, and the share of itself that is added vanishes in the rounding."""


def make_trainer(name: str, registry: dict[str, Any]) -> type:
    """Make the class ``RetainFirst<X>`` from the framework's ``<X>``.

    Args:
        name: ``"RetainFirst<X>"``.
        registry: The framework's trainers by name.

    Raises:
        RetainFirstError: The framework has no ``<X>``, or its loss cannot be taken apart; the text says why.
    """
    wanted = name.removeprefix(PREFIX)
    own = {key: value for key, value in registry.items() if not key.startswith(PREFIX)}
    if wanted not in own:
        raise RetainFirstError(f"{name}: open-unlearning has no trainer {wanted!r}. {did_you_mean(wanted, own)}")
    base = own[wanted]
    reason = reason_against(base)
    if reason is not None:
        raise RetainFirstError(f"{name}: the loss of {wanted} {CANNOT_BE_SPLIT}: {reason}")
    bases = [RetainFirstTraining, base]
    if hasattr(base, "final_loss_value"):
        bases.insert(0, _Scalarised)
    # A trainer that only forgets gets a retain loss and its options from GradDiff.
    borrows = not hasattr(base, "compute_retain_loss")
    if borrows:
        bases.append(own["GradDiff"])
    known = borrows or _Scalarised in bases
    content = {"__module__": __name__, "__doc__": f"{wanted} with two gradients.", "_split_is_known": known}
    return type(name, tuple(bases), content)


class RetainFirstTraining(SplitLoss, TwoTaskTraining):
    """What all ``RetainFirst<X>`` share; goes before the framework's ``<X>`` in the bases.

    Args:
        *args: For the framework's trainer.
        combiner: ``sum``, ``sago``, ``sago_keep_retain``, ``pcgrad`` or ``blur``.
        scope: ``tensor``, ``module``, ``block`` or ``global``, for the rules that look at groups; None: the rule's own default.
        **kwargs: For the framework's trainer: its ``method_args`` (``alpha``, ``gamma``, ...) among them.

    Raises:
        UnknownCombiner: No combiner has that name.
        RetainFirstError: An unknown scope, option or kind of data, or a set-up that is not supported.
    """

    def __init__(self, *args: Any, combiner: str = "sago", scope: str | None = None, **kwargs: Any) -> None:
        if combiner not in available_combiners():
            hint = did_you_mean(str(combiner), available_combiners())
            raise UnknownCombiner(f"trainer.method_args.combiner: unknown combiner {combiner!r}. {hint}")
        if scope is not None:
            _check_scope(combiner, scope)
        self._refuse_unknown_options(kwargs)
        _refuse_missing_data(kwargs.get("train_dataset"))
        if "tokenizer" in kwargs and "tokenizer" not in _parameters(transformers.Trainer.__init__):
            kwargs["processing_class"] = kwargs.pop("tokenizer")  # its name from transformers 5 on
        super().__init__(*args, combiner="sum", **kwargs)
        grouped = scope is not None and "scope" in _parameters(type(make_combiner(combiner)).__init__)
        self._weights = self._current_weights()
        if self._weights[0] == SMALLEST_WEIGHT:
            _logger.warning("alpha is 0: the retain gradient steers the combination, but is not added itself")
        alpha, gamma = self._weights
        self.combiner = make_combiner(combiner, alpha=alpha, gamma=gamma, **({"scope": scope} if grouped else {}))

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As always; a callback may have changed ``alpha`` or ``gamma``, which the framework reads at each step."""
        if (weights := self._current_weights()) != self._weights:
            self._weights = weights
            self.combiner = replace(self.combiner, alpha=weights[0], gamma=weights[1])
            if self._two_task_step is not None:
                self._two_task_step.combiner = self.combiner
        return super().training_step(*args, **kwargs)

    def _current_weights(self) -> tuple[float, float]:
        me: Any = self
        for name in ("alpha", "gamma"):
            value = getattr(me, name)
            if not isinstance(value, Real) or isinstance(value, bool):
                raise RetainFirstError(
                    f"trainer.method_args.{name}: {value!r} is not a number; give one without quotes"
                )
        return (float(me.alpha) or SMALLEST_WEIGHT, float(me.gamma))

    def task_losses(self) -> tuple[Any, Any]:
        """See :class:`retainfirst.hf.TwoTaskTraining`."""
        return self.forget_loss, self.retain_loss

    def _refuse_unknown_options(self, options: dict[str, Any]) -> None:
        """The framework hands what a trainer does not know on to transformers, whose error names neither."""
        known: set[str] = set()
        taken: set[str] = set()  # from **kwargs, by name
        for base in type(self).__mro__:
            if "__init__" in vars(base):
                known |= _parameters(vars(base)["__init__"])
                constants = getattr(getattr(vars(base)["__init__"], "__code__", None), "co_consts", ())
                taken |= {one for one in constants if isinstance(one, str)}
        known -= {"self", "combiner_options"}
        for option in options:
            if option not in known | taken | {"tokenizer", "processing_class"}:
                name = type(self).__name__
                hint = did_you_mean(option, sorted(known))
                raise RetainFirstError(f"{name} has no option trainer.method_args.{option}. {hint}")


class _Scalarised:
    """For trainers that weigh their losses by preferences that move during the run (PDU), in ``final_loss_value``.

    The weights go into the losses, at each micro-batch its own, and the combiner's are 1.
    """

    _losses: tuple[Tensor, ...] = ()

    def _current_weights(self) -> tuple[float, float]:
        return 1.0, 1.0

    def final_loss_value(self, losses: list[Tensor]) -> Tensor:
        """As the trainer does; the forget loss while that is taken alone."""
        me: Any = self
        return losses[0] if me._alone is not None else super().final_loss_value(losses)  # type: ignore[misc]

    def forget_loss(self, model: Any, inputs: Any) -> Tensor:
        """The forget loss, whose gradient is weighted by its preference."""
        me: Any = self
        loss: Tensor = super().forget_loss(model, inputs)  # type: ignore[misc]
        self._losses = (loss.detach(),)
        return _weighted(loss, me.preferences[0])

    def retain_loss(self, model: Any, inputs: Any) -> Tensor:
        """The retain loss, likewise; the trainer itself then moves the preference, once a micro-batch as without us."""
        me: Any = self
        loss: Tensor = super().retain_loss(model, inputs)  # type: ignore[misc]
        weight = me.preferences[1]
        if torch.is_grad_enabled():
            me.final_loss_value([*self._losses, loss.detach()])
        return _weighted(loss, weight)


def _weighted(loss: Tensor, weight: float) -> Tensor:
    """Return a loss of the same value, for the log, whose gradient is weighted."""
    return weight * loss + (1 - weight) * loss.detach()


def _check_scope(combiner: str, scope: str) -> None:
    try:
        check_scope(scope)
    except RetainFirstError as error:
        raise RetainFirstError(f"trainer.method_args.scope: {error}") from None
    if "scope" not in _parameters(type(make_combiner(combiner)).__init__):
        _logger.info("%s looks at one coordinate at a time: scope=%s changes nothing", combiner, scope)


def _refuse_missing_data(dataset: Any) -> None:
    if hasattr(dataset, "forget") and hasattr(dataset, "retain"):
        parts = {part for part in ("forget", "retain") if getattr(dataset, part)}
    elif isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and len(dataset):
        with torch.random.fork_rng(devices=[]):  # a row may be drawn
            row = dataset[0]
        parts = set(row) if isinstance(row, Mapping) else set()
    else:
        return
    for part in ("forget", "retain"):
        if part not in parts:
            raise RetainFirstError(
                f"the training data have no {part!r} part; set data.{part} to a data set of the framework, and data.anchor"
            )


def _parameters(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
