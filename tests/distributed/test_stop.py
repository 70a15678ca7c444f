"""StopAtForget on two processes does what it does on one."""

from __future__ import annotations

import pytest

import processes


def test_two_processes_stop_and_keep_as_one():
    [one], two = (processes.results("stop_cases.py", world, "stopped") for world in (1, 2))
    assert 1 < one["step"] < 6
    assert one["saved"] == [f"checkpoint-{one['record']['kept']['step']}"]
    for found in two:
        assert found["at_most"] == pytest.approx(one["at_most"], rel=1e-6)  # a float32 mean of as many rows
        assert (found["step"], found["saved"]) == (one["step"], one["saved"])
        assert found["record"]["measured"] == found["history"] == two[0]["history"]
        for mine, theirs in zip(found["history"], one["history"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-6)
        assert found["parameters"] == pytest.approx(one["parameters"], rel=1e-10, abs=1e-12)


def test_all_processes_follow_the_first():
    assert [found["step"] for found in processes.results("stop_cases.py", 2, "disagreeing")] == [3, 3]


def test_the_measure_of_a_sharded_model():
    [one], two = (processes.results("stop_cases.py", world, "sharded") for world in (1, 2))
    for found in two:
        assert found == pytest.approx(one, rel=1e-5)
