"""Trainers with their losses as methods, and with the library's objectives by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.hf._stepping import Batch, Loss, transformers
from retainfirst.hf._training import TwoTaskTraining
from retainfirst.objectives import count_items, get_objective

__all__ = ["TwoTaskTrainer", "TwoTaskTrainerMixin"]


class TwoTaskTrainerMixin(TwoTaskTraining):
    """Gives a ``transformers.Trainer`` two gradients and their combination.

    Like :class:`TwoTaskTraining`, with the two losses as methods: give ``compute_forget_loss`` and ``compute_retain_loss``.
    """

    def task_losses(self) -> tuple[Loss, Loss]:
        """Return the two methods."""
        return self.compute_forget_loss, self.compute_retain_loss

    def compute_forget_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Return the forget loss, to be minimised (gradient ascent gives minus the likelihood loss).

        Args:
            model: The model, as the trainer wrapped it.
            inputs: The whole batch, ``{"forget": {...}, "retain": {...}}``, on the model's device.

        Returns:
            A scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute_forget_loss(model, inputs)")

    def compute_retain_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Return the retain loss, to be minimised; arguments as in :meth:`compute_forget_loss`."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_retain_loss(model, inputs)")


class TwoTaskTrainer(TwoTaskTrainerMixin, transformers.Trainer):  # type: ignore[misc]
    """A trainer with the objectives of :mod:`retainfirst.objectives` chosen by name.

    Args:
        *args: For ``transformers.Trainer``.
        objective: ``"ga"``, ``"npo"`` or ``"simnpo"``.
        retain_loss: ``"nll"`` or ``"kl"``.
        objective_options: Keyword arguments for the forget objective: ``beta``, ``delta``, ``reference``.
        retain_options: Keyword arguments for the retain objective: ``reference``.
        **kwargs: ``combiner``, ``combiner_options``, ``offload``, ``stream``, and all that ``transformers.Trainer`` takes.

    Raises:
        RetainFirstError: An unknown objective, or one that lacks what it needs.
    """

    def __init__(
        self,
        *args: Any,
        objective: str = "simnpo",
        retain_loss: str = "nll",
        objective_options: Mapping[str, Any] | None = None,
        retain_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._forget_objective = _with_options("forget", objective, objective_options or {})
        self._retain_objective = _with_options("retain", retain_loss, retain_options or {})
        self._objectives = objective, retain_loss
        super().__init__(*args, **kwargs)

    def compute_forget_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Return the chosen forget objective on the forget half of the batch."""
        return self._forget_objective(model, inputs["forget"])

    def compute_retain_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Return the chosen retain objective on the retain half of the batch."""
        return self._retain_objective(model, inputs["retain"])

    def count_items(self, inputs: Batch) -> tuple[Tensor, Tensor]:
        """Return the number of scored tokens (``ga``, ``nll``), positions (``kl``) or rows (``npo``, ``simnpo``)."""
        forget, retain = self._objectives
        return count_items(forget, inputs["forget"]), count_items(retain, inputs["retain"])


def _with_options(kind: Literal["forget", "retain"], name: str, options: Mapping[str, Any]) -> Callable[..., Tensor]:
    objective = get_objective(kind, name)
    # After the model and the batch. The trainer counts items itself.
    known = [p for p in list(inspect.signature(objective).parameters.values())[2:] if p.name != "num_items"]
    names = [parameter.name for parameter in known]
    for option in options:
        if option not in names:
            raise RetainFirstError(
                f"{name} has no option {option!r}. {did_you_mean(option, names) if names else 'It has none.'}"
            )
    for parameter in known:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise RetainFirstError(
                f"{name} needs the option {parameter.name!r}; give it in the options of the {kind} objective"
            )
    return partial(objective, **options)
