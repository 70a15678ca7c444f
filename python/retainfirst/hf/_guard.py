"""The guard of a trainer's optimiser: when it measures, and what it logs."""

from __future__ import annotations

from typing import Any

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.step import GUARD_MODES, Guard, StepGeometry, TwoTaskStep

__all__ = ["TrainerGuard"]


class TrainerGuard:
    """Sets a guard on a trainer's optimiser, and collects its measurements between two logs.

    Args:
        mode: ``"off"``, ``"measure"`` or ``"enforce"``.

    Raises:
        RetainFirstError: The mode is unknown.
    """

    def __init__(self, mode: str) -> None:
        if mode not in GUARD_MODES:
            raise RetainFirstError(f"guard={mode!r} is unknown. {did_you_mean(str(mode), GUARD_MODES)}")
        self._mode = mode
        self._guard: Guard | None = None
        self._measured: list[StepGeometry] = []
        self._last: StepGeometry | None = None

    def refuse_deepspeed(self, trainer: str) -> None:
        """Refuse a guard together with DeepSpeed.

        Raises:
            RetainFirstError: The guard is not off.
        """
        if self._mode != "off":
            raise RetainFirstError(
                f"{trainer}: guard={self._mode!r} does not work with DeepSpeed, whose optimiser moves flat copies of the"
                ' parameters; use DDP or FSDP, or guard="off"'
            )

    def set(self, step: TwoTaskStep, trainer: Any) -> None:
        """Set the guard on a trainer's optimiser."""
        if self._mode != "off":
            self._guard = step.guard(trainer.optimizer, enforce=self._mode == "enforce")

    def before_combining(self, *, logged: bool) -> None:
        """Choose whether the step that is being made is measured.

        Args:
            logged: Whether it may be logged.
        """
        if self._guard is not None and self._mode == "enforce":
            self._guard.every = int(logged)

    def remove(self) -> None:
        """Take the guard off, before another training begins."""
        if self._guard is not None:
            self._guard.remove()
        self._guard, self._measured, self._last = None, [], None

    def note_step(self) -> None:
        """Collect the measurement of the step that was made last, if it is new."""
        found = self._guard.geometry if self._guard is not None else None
        if found is not None and found is not self._last:
            self._measured.append(found)
            self._last = found

    def logs(self) -> dict[str, float]:
        """Return what is logged, on every process, and begin to collect afresh."""
        self.note_step()
        measured, self._measured = [one.all_reduce() for one in self._measured], []
        if not measured:
            return {}
        return {
            "cos_step_retain": measured[-1].cos_step_retain,
            "step_opposes_retain": sum(one.opposes for one in measured) / len(measured),
        }
