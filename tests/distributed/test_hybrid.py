"""Hybrid sharding, two replicas of one or of two shards: they end where one process does that sees all rows."""

from __future__ import annotations

import pytest

import hybrid_cases
import processes

pytestmark = pytest.mark.slow

WORLDS = (2, 4)


@pytest.mark.parametrize(
    ("world", "name"),
    [
        # FSDP 1 with a single shard is NO_SHARD.
        *((2, name) for name in hybrid_cases.CASES if name.startswith("equal, fully_shard")),
        *((4, name) for name in hybrid_cases.CASES if name.startswith("equal")),
    ],
)
def test_equal_to_one_process(world, name):
    for result in processes.results("hybrid_cases.py", world, name):
        assert result["error"] <= 1e-12
        assert result["geometry"] <= 1e-12


@pytest.mark.parametrize("world", WORLDS)
def test_moments_are_added_over_shards_and_not_over_replicas(world):
    """PCGrad itself would not show it: its coefficients are ratios of moments."""
    for result in processes.results("hybrid_cases.py", world, "wrong, over all processes"):
        assert result["geometry"] > 0.1


def test_fsdp_1_with_one_shard_is_refused():
    for result in processes.results("hybrid_cases.py", 2, "refused, one shard"):
        assert "NO_SHARD is not supported" in result["refused"]
