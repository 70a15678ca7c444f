"""The progress of a long command: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

__all__ = ["Progress"]


class Progress:
    """Shows on standard error what is being done, how much of it is done, and the time left.

    On a terminal this is one bar for the present stage, which is removed at the end. Elsewhere, as in a log file, it is a line
    at the start of each stage, at its end, and every ``seconds`` between them. It is a context manager; :meth:`show` may be
    called again after the block.

    Args:
        seconds: Time between two lines of one stage.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._seconds = seconds
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeRemainingColumn(),
                   TextColumn("{task.fields[note]}"))  # fmt: skip
        self._bars = Bars(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._stage: str | None = None
        self._began = self._printed = 0.0
        self._first = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def show(self, stage: str, done: int = 0, total: int | None = None, note: str = "") -> None:
        """Show how far a stage is. Another stage than at the last call begins a new bar.

        Args:
            stage: What is being done, in a few words.
            done: How much of it is done.
            total: How much there is; None: unknown; 0: nothing is shown.
            note: Numbers or words about the present state.
        """
        if total == 0:
            return
        begins = stage != self._stage
        if begins:
            self._begin(stage, done, total)
        for task in self._bars.task_ids:
            self._bars.update(task, completed=done, total=total, note=note)
        if not self._console.is_terminal:
            self._print(begins, done, total, note)

    def stop(self) -> None:
        """Remove the bar; safe to call twice."""
        self._bars.stop()
        self._stage = None

    def _begin(self, stage: str, done: int, total: int | None) -> None:
        self._stage, self._first, self._began = stage, done, time.monotonic()
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._bars.add_task(stage, completed=done, total=total, note="")
        self._bars.start()

    def _print(self, begins: bool, done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        if not begins and done != total and now - self._printed < self._seconds:
            return
        self._printed = now
        words = [f"{self._stage} {done}/{total}" if total else str(self._stage), note]
        if total and done > self._first:
            left = timedelta(seconds=round((total - done) * (now - self._began) / (done - self._first)))
            words.append(f"{left} left")
        self._console.print(", ".join(word for word in words if word), markup=False)
