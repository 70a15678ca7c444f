"""The trainer on two processes does what it does on one that accumulates over the same rows."""

from __future__ import annotations

import pytest

import hf_cases
import processes

NUMBERS = ("forget_loss", "retain_loss", "grad_norm", "cos_update_retain", "norm_update")


@pytest.mark.parametrize("name", hf_cases.CASES)
def test_two_processes_train_as_one(name):
    [one], two = ([rank[name] for rank in processes.found("hf_cases.py", world)] for world in (1, 2))
    for result in (one, *two):
        assert "raised" not in result, result["raised"]
    assert len(one["parameters"]) > 20_000
    for result in two:
        # float64: the order of sums differs, over a few steps. Another sign of an update or a factor of two would be far outside.
        assert result["parameters"] == pytest.approx(one["parameters"], rel=1e-10, abs=1e-12)
        for mine, theirs in zip(result["logs"], one["logs"], strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=2e-4)  # rounded to four digits
            # The two losses are added up in float32.
            assert [mine[key] for key in NUMBERS] == pytest.approx([theirs[key] for key in NUMBERS], rel=1e-5)


def test_a_resumed_run_ends_where_the_uninterrupted_one_does():
    for rank in processes.found("hf_cases.py", 2):
        assert "raised" not in rank["resumed"], rank["resumed"]
        assert rank["resumed"] == {"equal": True, "step": 4}
