"""A process that fails stops the others, with its cause in the log and before any timeout."""

from __future__ import annotations

import time

import pytest

import processes


@pytest.mark.parametrize("place", ["forget", "retain", "averaging"])
def test_a_process_that_raises_stops_the_other(place, tmp_path):
    started = time.monotonic()
    both = processes.start("fault.py", 2, tmp_path, place)
    try:
        codes = [process.wait(60) for process in both]  # nobody ends the other, as a launcher would
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert all(codes)
    assert time.monotonic() - started < 60
    logs = [(tmp_path / f"log{rank}.txt").read_text() for rank in range(2)]
    assert "RuntimeError: the cause" in logs[1]
    assert "the cause" not in logs[0]
    assert not any("combined" in log for log in logs)
