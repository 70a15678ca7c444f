"""LoRA adapters on a frozen base in FSDP: two processes end where one does that sees all rows."""

from __future__ import annotations

import pytest

import adapter_cases
import processes


@pytest.mark.slow
@pytest.mark.parametrize("name", adapter_cases.CASES)
def test_equal_to_one_process(name):
    for result in processes.results("adapter_cases.py", 2, name):
        assert result["error"] <= 1e-12
        assert result["geometry"] <= 1e-12
