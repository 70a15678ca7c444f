"""Start a few processes once, run many cases in them, and bring back what each found."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Protocol

HERE = Path(__file__).parent
TIMEOUT = 300.0  # they take a tenth of it on an idle machine

# Imported once, in a process from which the others are forked. Nothing here computes, so it has no threads yet.
PRELOADED = [
    "torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp", "torch.nn.parallel", "torch._dynamo", "transformers",
    "transformers.trainer", "peft", "accelerate", "datasets",
]  # fmt: skip


class Process(Protocol):
    """The part of ``subprocess.Popen`` that is used here."""

    @property
    def returncode(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Forked:
    """A forked process with the interface of ``subprocess.Popen``."""

    def __init__(self, *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        self.terminate, self.kill = self._process.terminate, self._process.kill

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode


def _run(command: list[str], variables: dict[str, str], folder: Path, log: Path) -> None:
    """Do in a forked process what starting the command would do."""
    gc.freeze()  # the garbage collector need not go through all that was imported
    output = os.open(log, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def start(
    script: str, world: int, folder: Path, *arguments: str, env: dict[str, str] | None = None, fork: bool = True
) -> list[Process]:
    """Start ``python script folder arguments...`` once a rank, as torchrun would.

    By default a rank is forked from a process that has imported torch and transformers, where the system can do this. CUDA
    does not survive a fork, so the scripts of ``tests/gpu`` are not forked.
    """
    fork = fork and sys.platform == "linux" and not script.startswith("../gpu")
    processes, port = [], _free_port()
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # before the first fork: numpy would start threads when it is imported
    for rank in range(world):
        variables = {
            **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, sys.path)]), **(env or {}),
        }  # fmt: skip
        command = [str(HERE / script), str(folder), *arguments]
        log = folder / f"log{rank}.txt"
        with log.open("w") as output:
            if fork:
                processes.append(Forked(command, variables, folder, log))
            else:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, *command], env=variables, stdout=output, stderr=subprocess.STDOUT, cwd=folder
                    )
                )
    return processes


def _free_port() -> int:
    """Below the ports that the system hands out by itself, so that no connection of another program takes it in between."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise RuntimeError("no free port from 20000 to 32000")


def wait(processes: list[Process], timeout: float = TIMEOUT) -> list[int]:
    """Wait for all; as under torchrun, one that fails ends the others."""
    end = time.monotonic() + timeout
    running = list(processes)
    try:
        while running:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(running)} of {len(processes)} processes still run after {timeout:.0f} s")
            for process in list(running):
                try:
                    code = process.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
                running.remove(process)
                if code:
                    return [process.wait() if process not in running else _ended(process) for process in processes]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [process.wait() for process in processes]


def _ended(process: Process) -> int:
    process.terminate()
    try:
        return process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@cache
def found(script: str, world: int) -> list[dict]:
    """As :func:`run`, once for all tests of a script."""
    return run(script, world)


def results(script: str, world: int, name: str) -> list[dict]:
    """Return what each rank found in a case; an exception in one of them fails the test with its traceback."""
    each = [rank[name] for rank in found(script, world)]
    for result in each:
        assert "raised" not in result, result["raised"]
    return each


def run(
    script: str, world: int, *arguments: str, timeout: float = TIMEOUT, env: dict[str, str] | None = None
) -> list[dict]:
    """Return what each rank wrote to ``result<rank>.json``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes = wait(start(script, world, folder, *arguments, env=env), timeout)
        logs = "\n".join(f"--- rank {rank}\n{(folder / f'log{rank}.txt').read_text()[-4000:]}" for rank in range(world))
        if any(codes):
            raise RuntimeError(f"{script}: exit codes {codes}\n{logs}")
        return [json.loads((folder / f"result{rank}.json").read_text()) for rank in range(world)]
