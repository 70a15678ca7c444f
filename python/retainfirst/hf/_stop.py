"""Stopping a training at a forget target, and keeping the checkpoint with the best retain there."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from retainfirst.errors import RetainFirstError, require
from retainfirst.evaluation import Measure
from retainfirst.files import write_json
from retainfirst.hf._stepping import transformers

__all__ = ["StopAtForget"]

logger = logging.getLogger(__name__)

Entry = Mapping[str, Any]


class StopAtForget(transformers.TrainerCallback):  # type: ignore[misc]
    """Stops training once a measure of the forget set is low enough; optionally keeps the checkpoint with the best retain there.

    Every few steps it measures, and adds the result to the trainer's ``state.log_history`` as ``forget_measure`` (and
    ``retain_measure``). All it decides follows from this history, so that a resumed training goes on where it was.

    With ``keep_best``, each step that reaches the target with a better retain than all before is saved as the trainer's own
    checkpoint ``checkpoint-STEP``, by whatever engine it has. Once that is written, the one before is removed (unless the trainer
    saves by a ``save_strategy`` too: then its ``save_total_limit`` decides, which spares the best). At the end the trainer loads
    it, as with ``load_best_model_at_end``. (DeepSpeed and FSDP load no checkpoint with ``save_only_model``: there the model stays
    the last one, and a warning names the checkpoint.) ``stop_at_forget.json`` in the output folder records the target, all
    measurements and the step that was kept. If the target is never reached, a warning names the nearest step.

    Works on several processes; all of them follow the numbers of process 0.

    Args:
        measure: The metric, such as :class:`~retainfirst.evaluation.AnswerProbability`; its values are in [0, 1].
        at_most: The forget target: stop when the forget set's measure is at most this.
        every: Measure after every so many optimiser steps.
        patience: Measure so many times more after the target was first reached, then stop. Needs ``keep_best``.
        keep_best: Measure the retain set too, and keep the best checkpoint at the target.

    Raises:
        RetainFirstError: A bad value; or, when the training begins, a trainer that chooses another best model.
    """

    def __init__(
        self, measure: Measure, at_most: float, every: int, *, patience: int = 0, keep_best: bool = False
    ) -> None:
        check_stop(at_most, every, patience, keep_best)
        self._measure, self._at_most, self._every = measure, at_most, every
        self._patience, self._keep_best = patience, keep_best
        self._surpassed: str | None = None  # the checkpoint to remove once a better one is written

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Have the trainer load the kept checkpoint at the end, where it can."""
        if not self._keep_best:
            return
        if args.metric_for_best_model is not None:
            raise RetainFirstError(
                f"keep_best keeps the checkpoint with the best retain, but metric_for_best_model={args.metric_for_best_model!r}"
                " chooses another: leave one of them out"
            )
        args.load_best_model_at_end = _can_load(args)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure, and decide whether to save and to stop."""
        if state.global_step % self._every:
            return
        before = self._best(state)
        state.log_history.append({"step": state.global_step, **self._measured(model)})
        best, reached = self._best(state), self._reached(state)
        if self._keep_best and best is not before:
            self._surpassed = state.best_model_checkpoint
            state.best_metric = best["retain_measure"]  # type: ignore[index]
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            control.should_save = True
        if len(reached) > self._patience:
            control.should_training_stop = True
        if not control.should_save:
            self._record(args, state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the new best checkpoint, and then remove the one before."""
        if not self._history(state):
            return
        self._record(args, state)
        strategy = getattr(args.save_strategy, "value", args.save_strategy)
        if self._surpassed is not None and strategy == "no" and state.is_world_process_zero:
            shutil.rmtree(self._surpassed, ignore_errors=True)
        self._surpassed = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Say which step was kept, or that the target was not reached."""
        if not (self._keep_best and state.is_world_process_zero):
            return
        history, best = self._history(state), self._best(state)
        if not self._reached(state):
            nearest = _nearest(history)
            text = "it was never measured" if nearest is None else f"the nearest was {_described(nearest)}"
            logger.warning(
                "The forget target of %g was not reached: %s. Train longer, or set another target", self._at_most, text
            )
        elif best is not None:
            logger.info("Kept %s: %s", state.best_model_checkpoint, _described(best))
            if not args.load_best_model_at_end and best is not history[-1]:
                logger.warning("The model is that of the last step; the best one is in %s", state.best_model_checkpoint)

    def _measured(self, model: Any) -> dict[str, float]:
        found = [self._measure.forget(model)] + ([self._measure.retain(model)] if self._keep_best else [])
        if distributed.is_available() and distributed.is_initialized():
            device = next(model.parameters()).device
            of_first = torch.tensor(found, dtype=torch.float64, device=device)
            distributed.broadcast(of_first, 0)  # else one process might stop and another wait for it
            found = of_first.tolist()
        return dict(zip(("forget_measure", "retain_measure"), found, strict=False))

    @staticmethod
    def _history(state: Any) -> list[Entry]:
        return [entry for entry in state.log_history if "forget_measure" in entry]

    def _reached(self, state: Any) -> list[Entry]:
        """Return the measurements from the first one on that reached the target."""
        history = self._history(state)
        first = next((i for i, one in enumerate(history) if one["forget_measure"] <= self._at_most), len(history))
        return history[first:]

    def _best(self, state: Any) -> Entry | None:
        """Return the measurement with the best retain among those at the target; the first of several."""
        at_target = [
            one
            for one in self._history(state)
            if one["forget_measure"] <= self._at_most and math.isfinite(one.get("retain_measure", math.nan))
        ]
        return max(at_target, key=lambda one: one["retain_measure"], default=None)

    def _record(self, args: Any, state: Any) -> None:
        if not (self._keep_best and state.is_world_process_zero):
            return
        record = {
            "measure": self._measure.name, "forget_at_most": self._at_most, "every": self._every, "patience": self._patience,
            "reached": bool(self._reached(state)), "kept": self._best(state), "checkpoint": state.best_model_checkpoint,
            "nearest": _nearest(self._history(state)), "measured": self._history(state),
        }  # fmt: skip
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        write_json(Path(args.output_dir) / "stop_at_forget.json", record)


def check_stop(at_most: Any, every: Any, patience: Any, keep_best: Any) -> None:
    """Check the options of :class:`StopAtForget`.

    Raises:
        RetainFirstError: The text names the option and what was found.
    """
    if not isinstance(at_most, int | float) or isinstance(at_most, bool) or not 0 <= at_most <= 1:
        raise RetainFirstError(f"at_most must be a number from 0 to 1, not {at_most!r}")
    for name, value, least in (("every", every, 1), ("patience", patience, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise RetainFirstError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if not isinstance(keep_best, bool):
        raise RetainFirstError(f"keep_best must be true or false, not {keep_best!r}")
    if patience and not keep_best:
        raise RetainFirstError(
            f"patience={patience} looks for a better retain, which only keep_best keeps: set keep_best"
        )


def _can_load(args: Any) -> bool:
    """Return whether the trainer can load a checkpoint of its own into the model."""
    # Not from args: accelerate launch sets engines up by environment variables.
    engine = require("accelerate", "hf").state.AcceleratorState().distributed_type
    return not (args.save_only_model and engine.value in ("DEEPSPEED", "FSDP"))


def _nearest(history: list[Entry]) -> Entry | None:
    finite = [one for one in history if math.isfinite(one["forget_measure"])]
    return min(finite, key=lambda one: one["forget_measure"], default=None)


def _described(entry: Entry) -> str:
    retain = f" and a retain measure of {entry['retain_measure']:.4g}" if "retain_measure" in entry else ""
    return f"step {entry['step']} with a forget measure of {entry['forget_measure']:.4g}{retain}"
