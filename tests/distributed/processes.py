"""Start a few processes once, run many cases in them, and bring back what each found."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT = 300.0  # they take a tenth of it on an idle machine


def start(
    script: str, world: int, folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> list[subprocess.Popen]:
    """Start ``python script folder arguments...`` once a rank, as torchrun would."""
    processes, port = [], _free_port()
    for rank in range(world):
        variables = {
            **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, sys.path)]), **(env or {}),
        }  # fmt: skip
        log = (folder / f"log{rank}.txt").open("w")
        command = [sys.executable, str(HERE / script), str(folder), *arguments]
        processes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, cwd=folder))
    return processes


def _free_port() -> int:
    """Below the ports that the system hands out by itself, so that no connection of another program takes it in between."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise RuntimeError("no free port from 20000 to 32000")


def wait(processes: list[subprocess.Popen], timeout: float = TIMEOUT) -> list[int]:
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
    return [process.returncode for process in processes]


def _ended(process: subprocess.Popen) -> int:
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
