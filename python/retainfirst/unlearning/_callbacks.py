"""Trainer callbacks: progress, early stopping, a clean stop on Ctrl-C and SIGTERM, and a checkpoint at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retainfirst.errors import RetainFirstError, require
from retainfirst.evaluation import Measure
from retainfirst.hf import EvaluateEvery
from retainfirst.unlearning._signals import on_interrupt

transformers: Any = require("transformers", "hf")

__all__ = ["ProgressBar", "SaveAtEnd", "StopAtForget", "StopIfBroken", "StopOnInterrupt"]


class ProgressBar(transformers.TrainerCallback):  # type: ignore[misc]
    """Shows the step, the losses and the cosine of update and retain gradient on standard error.

    Where standard error is no terminal, as in a log file, a line is printed every ``seconds`` and at the last step.
    """

    def __init__(self, label: str, seconds: float = 30.0) -> None:
        self._label, self._seconds = label, seconds
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._began = self._printed = 0.0
        self._first = 0
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeRemainingColumn(),
                   TextColumn("{task.fields[numbers]}"))  # fmt: skip
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task(label, numbers="", total=None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._progress.update(self._task, total=state.max_steps, completed=state.global_step)
        self._progress.start()
        self._began = self._printed = time.monotonic()
        self._first = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if logs and "forget_loss" in logs:
            losses = f"forget {logs['forget_loss']:.2f} retain {logs['retain_loss']:.2f}"
            numbers = f"{losses} cos(u,r) {logs['cos_update_retain']:.2f}"
            self._progress.update(self._task, completed=state.global_step, numbers=numbers)
            if not self._console.is_terminal:
                self._print_line(state.global_step, state.max_steps, numbers)

    def _print_line(self, step: int, steps: int, numbers: str) -> None:
        now = time.monotonic()
        if step < steps and now - self._printed < self._seconds:
            return
        self._printed = now
        left = timedelta(seconds=round((steps - step) * (now - self._began) / max(step - self._first, 1)))
        self._console.print(f"{self._label}: step {step}/{steps}, {numbers}, {left} left", markup=False)

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


class StopAtForget(EvaluateEvery):
    """Measures the forget set every few steps and stops training once the measure is low enough."""

    def __init__(self, measure: Measure, at_most: float, every: int) -> None:
        name = "forget_measure"
        super().__init__(lambda model: {name: measure.forget(model)}, every, lambda found: found[name] <= at_most)


class SaveAtEnd(transformers.TrainerCallback):  # type: ignore[misc]
    """Saves a checkpoint at the last step, so that a failure to write the results loses nothing."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_save = True


class StopOnInterrupt(transformers.TrainerCallback):  # type: ignore[misc]
    """On Ctrl-C or SIGTERM, finishes the step, saves a checkpoint and stops training; a second signal interrupts at once."""

    def __init__(self) -> None:
        self.interrupted = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle both signals inside the block."""

        def note(_number: int, _frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        with on_interrupt(note):
            yield
