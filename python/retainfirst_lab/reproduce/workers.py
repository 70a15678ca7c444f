"""Cells in this process or in several, each with a fixed number of threads, so that results do not depend on how many."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from retainfirst.errors import RetainFirstError
from retainfirst.unlearning._signals import on_interrupt
from retainfirst_lab.reproduce.bench import Bench
from retainfirst_lab.reproduce.design import Cell
from retainfirst_lab.reproduce.path import run_cell
from retainfirst_lab.reproduce.store import Store
from retainfirst_lab.reproduce.tiers import Tier

__all__ = ["run_all"]


def run_all(tier: Tier, store: Store, cells: Sequence[Cell], jobs: int) -> Iterator[Cell | None]:
    """Run cells and store their results.

    Models that are not there yet are built first. In this process, cells that would not end within the tier's minutes are not
    begun (the longest so far tells how long one takes). Ctrl-C stops the processes at once; what is not finished is not stored.

    Args:
        tier: Gives benches and sizes.
        store: Where results go.
        cells: What to run.
        jobs: Processes; 1 is this one.

    Yields:
        None for each (bench, seed) whose model is ready, and each finished cell, in the order in which they finish.

    Raises:
        RetainFirstError: A cell failed, or a process was killed.
    """
    if not cells:  # and no library is loaded for nothing
        return
    until = math.inf if tier.minutes is None else time.monotonic() + 60 * tier.minutes
    benches = list(dict.fromkeys((cell.bench, cell.seed) for cell in cells))
    if jobs == 1:
        quiet()
        with _threads(tier.threads):
            for bench in benches:
                _ready(tier, store, *bench)
                yield None
            longest = 0.0
            for cell in cells:
                begin = time.monotonic()
                if begin + longest > until:
                    return
                _run(tier, store, cell)
                longest = max(longest, time.monotonic() - begin)
                yield cell
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(tier.threads,))
    try:
        yield from _finished(pool, [(_ready, tier, store, *bench) for bench in benches])
        yield from _finished(pool, [(_run, tier, store, cell) for cell in cells])
    except BrokenProcessPool as error:
        raise RetainFirstError(
            "A process of the run was killed, perhaps for want of memory. Run the same command again with fewer --jobs; what is"
            " finished is kept."
        ) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(pool: ProcessPoolExecutor, calls: list[tuple[Any, ...]]) -> Iterator[Any]:
    # Processes start here and inherit this: Ctrl-C is for the main process, which then ends them by another signal.
    with on_interrupt(signal.SIG_IGN):
        futures = [pool.submit(*call) for call in calls]
    for future in as_completed(futures):
        yield future.result()


def _start(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    quiet()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)  # from here on, leave so that drafts are cleaned up


def _end_with_parent() -> None:
    """End when the main process is gone: a pool's processes would otherwise wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # To the main thread itself: a signal that another thread takes would not wake it from its waiting.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(2)  # to clean up; the pool's loop survives what ends a task
        os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    sys.exit(128 + number)


def _ready(tier: Tier, store: Store, bench: str, seed: int) -> None:
    _bench(tier, store.folder, bench, seed)


@lru_cache(maxsize=2)
def _bench(tier: Tier, folder: Path, name: str, seed: int) -> Bench:
    return tier.bench(name, seed, folder)


def _run(tier: Tier, store: Store, cell: Cell) -> Cell:
    checkpoint = store.path(cell).with_suffix(".pt") if tier.checkpoints else None
    bench = _bench(tier, store.folder, cell.bench, cell.seed)
    store.write(cell, run_cell(cell, bench, tier.sizes, checkpoint))
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return cell


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quiet() -> None:
    """Keep the libraries' own progress bars and remarks off the screen."""
    import logging

    import datasets
    import transformers

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
