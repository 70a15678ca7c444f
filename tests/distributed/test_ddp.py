"""DistributedDataParallel: two and three processes end where one process does that sees all rows."""

from __future__ import annotations

import pytest

import ddp_cases
import processes

WORLDS = (2, pytest.param(3, marks=pytest.mark.slow))
NAMES = {
    kind: [name for name in ddp_cases.CASES if name.startswith(kind)] for kind in ("equal", "wrong", "refused", "sent")
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", NAMES["equal"])
def test_equal_to_one_process(world, name):
    for result in processes.results("ddp_cases.py", world, name):
        assert result["error"] <= 1e-12
        assert result.get("geometry", 0.0) <= 1e-12


@pytest.mark.parametrize("name", NAMES["wrong"])
def test_wrong_designs_are_caught(name):
    assert min(result["error"] for result in processes.results("ddp_cases.py", 2, name)) > 1e-3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("refused, static_graph", "static_graph=True"),
        ("refused, hook", "without register_comm_hook"),
        ("refused, bucket views", "compute the loss inside"),
        ("refused, no retain gradient", "no retain gradient was collected"),
    ],
)
def test_every_process_refuses(name, text):
    assert all(text in result["refused"] for result in processes.results("ddp_cases.py", 2, name))


@pytest.mark.parametrize("name", NAMES["sent"])
def test_two_gradient_sets_are_sent_whatever_the_rule(name):
    """And a byte of flags a parameter and task, which in this tiny model is not negligible."""
    for result in processes.results("ddp_cases.py", 2, name):
        assert result["bytes"] == 2 * result["plain"] + result["flags"]
        assert result["calls"] == 4
