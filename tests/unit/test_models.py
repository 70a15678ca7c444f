"""Devices by name."""

import pytest
import torch

from retainfirst.errors import RetainFirstError
from retainfirst.models import find_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_devices_that_the_machine_has(two_gpus, name):
    assert find_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cuda:2", "'cuda:2' cannot be used: this machine has 2 cuda devices"),
        ("cpu:1", "'cpu:1' cannot be used: this machine has 1 cpu device$"),
        ("meta", "'meta' cannot be used: this machine has no meta devices"),
        ("gpu:1", "'gpu:1' cannot be used: give one such as cpu, cuda or cuda:1"),
        ("cuda:-1", "'cuda:-1' cannot be used: give one"),
        ("", "'' cannot be used: give one"),
    ],
)
def test_devices_that_it_has_not(two_gpus, name, text):
    with pytest.raises(RetainFirstError, match=text):
        find_device(name)
