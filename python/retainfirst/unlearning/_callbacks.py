"""Trainer callbacks: progress, a stop at broken numbers, a clean stop on Ctrl-C and SIGTERM, and a checkpoint at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from retainfirst.errors import RetainFirstError, require
from retainfirst.progress import Progress
from retainfirst.unlearning._signals import on_interrupt

transformers: Any = require("transformers", "hf")

__all__ = ["SaveAtEnd", "ShowProgress", "StopIfBroken", "StopOnInterrupt"]


class ShowProgress(transformers.TrainerCallback):  # type: ignore[misc]
    """Shows the stages of a run, and of its training the step, the losses and the cosine of update and retain gradient."""

    def __init__(self, label: str) -> None:
        self._label, self._progress = label, Progress()

    def stage(self, what: str) -> None:
        """Show what begins."""
        self._progress.show(f"{self._label}: {what}")

    def stop(self) -> None:
        """Restore the terminal; safe to call twice and after an error."""
        self._progress.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._show(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if logs and "forget_loss" in logs:
            losses = f"forget {logs['forget_loss']:.2f} retain {logs['retain_loss']:.2f}"
            self._show(state, f"{losses} cos(u,r) {logs['cos_update_retain']:.2f}")

    def _show(self, state: Any, numbers: str = "") -> None:
        self._progress.show(f"{self._label}: step", state.global_step, state.max_steps, numbers)


class StopIfBroken(transformers.TrainerCallback):  # type: ignore[misc]
    """Raises at the first loss or gradient that is not finite."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        for name in ("forget_loss", "retain_loss", "norm_update"):
            if logs and not math.isfinite(logs.get(name, 0.0)):
                raise RetainFirstError(
                    f"step {state.global_step}: {name} is {logs[name]}; try a lower learning rate or gamma, or another objective"
                )


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
