"""Run cells in one or several processes.

Each process has a fixed number of threads, so that results do not depend on the number of processes.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import torch

from retainfirst.errors import RetainFirstError
from retainfirst.unlearning import on_interrupt
from retainfirst_lab.reproduce.attack_design import AttackCell
from retainfirst_lab.reproduce.attack_runs import attacked
from retainfirst_lab.reproduce.design import Cell
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed
from retainfirst_lab.reproduce.path import run_cell
from retainfirst_lab.reproduce.store import Store
from retainfirst_lab.reproduce.testbed import Testbed
from retainfirst_lab.reproduce.tiers import Tier

__all__ = ["AnyCell", "finished", "run_all"]

AnyCell = TypeVar("AnyCell", bound=Cell)


def finished(
    tier: Tier, store: Store, cells: Sequence[AnyCell], jobs: int, progress: Callable[[int, int], None]
) -> dict[AnyCell, dict[str, Any]]:
    """Run the cells that the store lacks, and return the results of all.

    Args:
        tier: Gives test beds and sizes.
        store: For the results.
        cells: The cells.
        jobs: Processes, at most one for each missing cell.
        progress: Called with the numbers of finished cells and of all, first before any is run.

    Returns:
        Results by cell, without those for which the tier's budget did not last.
    """
    missing = [cell for cell in cells if store.read(cell) is None]
    done = len(cells) - len(missing)
    progress(done, len(cells))
    for cell in run_all(tier, store, missing, min(jobs, max(1, len(missing)))):
        done += cell is not None
        progress(done, len(cells))
    return {cell: found for cell in cells if (found := store.read(cell)) is not None}


def run_all(tier: Tier, store: Store, cells: Sequence[Cell], jobs: int) -> Iterator[Cell | None]:
    """Run cells and store their results.

    Missing models are built first. A run in this process begins no cell that would end after the tier's budget; the longest cell
    so far is the estimate. Ctrl-C stops all processes at once, and unfinished cells are not stored.

    Args:
        tier: Gives test beds and sizes.
        store: For the results.
        cells: The cells to run.
        jobs: Processes; 1: this one.

    Yields:
        None for each test bed and seed whose model is ready, then each cell when it has finished.

    Raises:
        RetainFirstError: A cell failed, or a process was killed.
    """
    if not cells:  # do not load the libraries
        return
    until = math.inf if tier.minutes is None else time.monotonic() + 60 * tier.minutes
    testbeds = list(dict.fromkeys((cell.testbed, cell.seed) for cell in cells))
    if jobs == 1:
        quiet()
        with _threads(tier.threads):
            for testbed in testbeds:
                _ready(tier, store, *testbed)
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
        yield from _finished(pool, [(_ready, tier, store, *testbed) for testbed in testbeds])
        yield from _finished(pool, [(_run, tier, store, cell) for cell in cells])
    except BrokenProcessPool as error:
        raise RetainFirstError(
            "A process of the run was killed, perhaps because memory ran out. Run the same command again with fewer --jobs;"
            " finished cells are kept."
        ) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(pool: ProcessPoolExecutor, calls: list[tuple[Any, ...]]) -> Iterator[Any]:
    # The processes inherit this setting. Ctrl-C goes to the main process only, which ends them with SIGTERM.
    with on_interrupt(signal.SIG_IGN):
        futures = [pool.submit(*call) for call in calls]
    for future in as_completed(futures):
        yield future.result()


def _start(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    quiet()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)  # raises SystemExit, so that drafts are removed


def _end_with_parent() -> None:
    """End when the main process has ended; a pool's process would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # To the main thread: a signal that another thread receives would not interrupt its waiting.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(2)  # for the cleanup; the pool's loop survives SystemExit in a task
        os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    sys.exit(128 + number)


def _ready(tier: Tier, store: Store, testbed: str, seed: int) -> None:
    _testbed(tier, store.folder, testbed, seed)


@lru_cache(maxsize=2)
def _testbed(tier: Tier, folder: Path, name: str, seed: int) -> Testbed:
    return tier.testbed(name, seed, folder)


def _run(tier: Tier, store: Store, cell: Cell) -> Cell:
    checkpoint = store.path(cell).with_suffix(".pt") if tier.checkpoints else None
    testbed = _testbed(tier, store.folder, cell.testbed, cell.seed)
    if isinstance(cell, AttackCell):
        store.write(cell, attacked(cell, cast(FactsTestbed, testbed), tier.sizes))
    else:
        store.write(cell, run_cell(cell, testbed, tier.sizes, checkpoint))
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
    """Disable the progress bars and the warnings of the libraries."""
    import logging

    import datasets
    import transformers

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
