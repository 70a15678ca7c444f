"""A split trainer on two processes trains as its own run does, and as one process on the same rows."""

from __future__ import annotations

import pytest

import processes
import split_cases

pytestmark = pytest.mark.slow  # tests/unit/hf/test_split.py has the same trainers on one process


@pytest.mark.parametrize("name", split_cases.OWN)
def test_sum_trains_as_the_trainers_own_run(name):
    for rank in processes.found("split_cases.py", 2):
        result = rank[name]
        assert "raised" not in result, result["raised"]
        assert result["engine"] == ("FSDP2Engine" if "FSDP" in name else "DDPEngine")
        # float64: two gradients are averaged apart, or together.
        assert result["difference"] <= 1e-12
        assert result["moved"] > 1e-3


@pytest.mark.parametrize("name", split_cases.ONE)
def test_two_processes_train_as_one(name):
    [one], two = ([rank[name] for rank in processes.found("split_cases.py", world)] for world in (1, 2))
    for result in (one, *two):
        assert "raised" not in result, result["raised"]
    for result in two:
        assert result["parameters"] == pytest.approx(one["parameters"], rel=1e-10, abs=1e-12)
