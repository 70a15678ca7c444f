"""Trainer callbacks: a progress bar, early stopping, and a clean stop on Ctrl-C."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retainfirst.errors import RetainFirstError, require
from retainfirst.evaluation import Measure
from retainfirst.unlearning._signals import on_interrupt

transformers: Any = require("transformers", "hf")

__all__ = ["ProgressBar", "StopAtForget", "StopIfBroken", "StopOnInterrupt"]


class ProgressBar(transformers.TrainerCallback):  # type: ignore[misc]
    """Shows the step, the losses and the cosine of update and retain gradient on standard error."""

    def __init__(self, label: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeRemainingColumn(),
                   TextColumn("{task.fields[numbers]}"))  # fmt: skip
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(label, numbers="", total=None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._progress.update(self._task, total=state.max_steps, completed=state.global_step)
        self._progress.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if logs and "forget_loss" in logs:
            losses = f"forget {logs['forget_loss']:.2f} retain {logs['retain_loss']:.2f}"
            numbers = f"{losses} cos(u,r) {logs['cos_update_retain']:.2f}"
            self._progress.update(self._task, completed=state.global_step, numbers=numbers)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Restore the terminal; safe to call twice and after an error."""
        self._progress.stop()


class StopIfBroken(transformers.TrainerCallback):  # type: ignore[misc]
    """Raises at the first loss or gradient that is not finite."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        for name in ("forget_loss", "retain_loss", "norm_update"):
            if logs and not math.isfinite(logs.get(name, 0.0)):
                raise RetainFirstError(
                    f"step {state.global_step}: {name} is {logs[name]}; try a lower learning rate or gamma, or another objective"
                )


class StopAtForget(transformers.TrainerCallback):  # type: ignore[misc]
    """Measures the forget set every few steps and stops training once the measure is low enough."""

    def __init__(self, measure: Measure, at_most: float, every: int) -> None:
        self._measure, self._at_most, self._every = measure, at_most, every

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if state.global_step % self._every:
            return
        found = self._measure.forget(model)
        state.log_history.append({"step": state.global_step, "forget_measure": found})
        if found <= self._at_most:
            control.should_training_stop = True


class StopOnInterrupt(transformers.TrainerCallback):  # type: ignore[misc]
    """On Ctrl-C, finishes the step, saves a checkpoint and stops training; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.interrupted = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle Ctrl-C inside the block."""

        def note(_number: int, _frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        with on_interrupt(note):
            yield
