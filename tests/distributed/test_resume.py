"""A run that goes on from a checkpoint, in fresh objects, ends where the uninterrupted one does, to the bit."""

from __future__ import annotations

import pytest

import processes
import resume_cases

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", resume_cases.CASES)
def test_resumed(world, name):
    for result in processes.results("resume_cases.py", world, name):
        assert result["equal"] == ("wrong" not in name)
