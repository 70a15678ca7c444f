"""A process that fails stops the others, with its cause in the log and before any timeout."""

from __future__ import annotations

import json
import signal
import time

import pytest
from transformers import LlamaForCausalLM

import processes

# Far below the hour or so after which a launcher's default time limit would end a hang, and far above a few seconds of work.
LIMIT = 300


def run_without_a_launcher(folder, *command, fork=True):
    """Return the exit codes and logs of two processes, of which nobody ends one because the other has ended."""
    started = time.monotonic()
    both = processes.start(command[0], 2, folder, *command[1:], fork=fork)
    try:
        codes = [process.wait(LIMIT) for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert time.monotonic() - started < LIMIT
    return codes, [(folder / f"log{rank}.txt").read_text() for rank in range(2)]


@pytest.mark.parametrize(
    "place", ["forget", *(pytest.param(place, marks=pytest.mark.slow) for place in ("retain", "averaging"))]
)
def test_a_process_that_raises_stops_the_other(place, tmp_path):
    # One of them as a program of its own, with all that Python does at its end.
    codes, logs = run_without_a_launcher(tmp_path, "fault.py", place, fork=place != "averaging")
    assert all(codes)
    assert "RuntimeError: the cause" in logs[1]
    assert "the cause" not in logs[0]
    assert not any("combined" in log for log in logs)


def test_a_process_killed_while_saving_leaves_the_checkpoint_before_whole(tmp_path):
    codes, logs = run_without_a_launcher(tmp_path, "fault_save.py")
    assert codes[0] == -signal.SIGKILL
    assert codes[1] != 0
    assert "trained" not in logs[1]
    whole = tmp_path / "out" / "checkpoint-1"
    assert json.loads((whole / "trainer_state.json").read_text())["global_step"] == 1
    assert sum(p.numel() for p in LlamaForCausalLM.from_pretrained(whole).parameters()) > 20_000
    assert (whole / "optimizer.pt").stat().st_size > 0
