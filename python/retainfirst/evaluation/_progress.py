"""Progress of a long command: a bar on a terminal, and a line every half minute where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress"]

_SECONDS = 30.0


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that takes what is being done, how much is done, and how much there is.

    It shows them on standard error, with the time left.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("", total=None)
    began = printed = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal printed
        bar.update(task, description=what, completed=done, total=total)
        now = time.monotonic()
        if not console.is_terminal and now - printed >= _SECONDS:
            printed = now
            left = timedelta(seconds=round((total - done) * (now - began) / max(done, 1)))
            console.print(f"{what}: {done}/{total}, {left} left", markup=False)

    with bar:
        yield show
