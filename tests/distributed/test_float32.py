"""In float32 too, two and three processes make the step that the averages over all rows give, up to rounding."""

from __future__ import annotations

import pytest

import float32_cases
import processes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", float32_cases.CASES)
def test_the_step_is_within_the_bound(world, name):
    for result in processes.results("float32_cases.py", world, name):
        assert result["ratio"] <= 1
        # The bound says something: it is small beside each tensor's step, and signs are open almost nowhere.
        assert result["bound"] < 1e-4
        assert result["undecided"] < 0.01
