"""Narrow formats, loss scaling, and gradients that are not finite on one process only."""

from __future__ import annotations

import pytest

import precision_cases
import processes

pytestmark = pytest.mark.slow

NAMES = {
    kind: [name for name in precision_cases.CASES if name.startswith(kind)] for kind in ("near", "scaled", "broken")
}


@pytest.mark.parametrize("name", NAMES["near"])
def test_narrow_formats_go_the_same_way_and_the_processes_agree(name):
    for result in processes.results("precision_cases.py", 2, name):
        assert result["agree"]
        # Adam takes a step of full length also where rounding turns the sign of a small gradient: a few of all coordinates.
        # Without the update, or with the opposite one, it would be 1 or 2.
        assert result["error"] < 0.3


@pytest.mark.parametrize("name", NAMES["scaled"])
def test_infinity_on_one_process_skips_the_step_on_all_and_lowers_the_scale(name):
    for result in processes.results("precision_cases.py", 2, name):
        assert result["scales"] == [512.0, 512.0]
        assert result["moved"] == [False, True]


@pytest.mark.parametrize("name", NAMES["broken"])
def test_the_check_names_parameter_and_task_on_every_process(name):
    task = name.split()[-1]
    for result in processes.results("precision_cases.py", 2, name):
        assert f"embedding.weight: the {task} gradient holds NaN or infinity" in result["refused"]
        assert result["left"] == []
