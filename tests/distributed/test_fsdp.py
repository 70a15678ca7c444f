"""FSDP, both versions: two and three processes end where one process does that sees all rows."""

from __future__ import annotations

import pytest

import fsdp_cases
import processes

WORLDS = (2, pytest.param(3, marks=pytest.mark.slow))
NAMES = {kind: [name for name in fsdp_cases.CASES if name.startswith(kind)] for kind in ("equal", "calls")}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", NAMES["equal"])
def test_equal_to_one_process(world, name):
    for result in processes.results("fsdp_cases.py", world, name):
        assert result["error"] <= 1e-12
        assert result["geometry"] <= 1e-12


def test_a_wrong_design_is_caught():
    assert (
        min(result["error"] for result in processes.results("fsdp_cases.py", 2, "wrong, deferred and interleaved"))
        > 1e-3
    )


@pytest.mark.parametrize("name", NAMES["calls"])
def test_a_combination_makes_no_call_or_one(name):
    expected = [] if "sago" in name else ["all_gather_into_tensor"]
    assert all(result["calls"] == expected for result in processes.results("fsdp_cases.py", 2, name))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("refused, use_orig_params", "set it to True"),
        ("refused, not sharded", "to the whole model last"),
        ("refused, streaming", "stream=True works in one process"),
    ],
)
def test_every_process_refuses(name, text):
    assert all(text in result["refused"] for result in processes.results("fsdp_cases.py", 2, name))
