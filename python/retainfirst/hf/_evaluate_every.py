"""A trainer callback that measures the model during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst.hf._stepping import transformers

__all__ = ["EvaluateEvery"]


class EvaluateEvery(transformers.TrainerCallback):  # type: ignore[misc]
    """Measures the model every few optimiser steps, records the numbers, and stops training once they are as wanted.

    The numbers go to ``state.log_history``. With several processes each measures the same, so that all stop together; a model
    whose parameters are sharded must be gathered by ``measure``.

    Args:
        measure: Takes the model and returns numbers by name, for example from the functions of :mod:`retainfirst.evaluation`.
        every: Steps between two measurements, at least 1.
        stop: Takes the numbers and tells whether training should stop; None: never.

    Raises:
        RetainFirstError: ``every`` is below 1.
    """

    def __init__(
        self,
        measure: Callable[[Any], Mapping[str, float]],
        every: int,
        stop: Callable[[Mapping[str, float]], bool] | None = None,
    ) -> None:
        if every < 1:
            raise RetainFirstError(f"every must be at least 1, found {every}.")
        self._measure, self._every, self._stop = measure, every, stop

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure, if it is time."""
        if state.global_step % self._every:
            return
        found = dict(self._measure(model))
        state.log_history.append({"step": state.global_step, **found})
        if self._stop is not None and self._stop(found):
            control.should_training_stop = True
