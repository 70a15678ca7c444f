"""The trainer's device is the one that the settings name."""

import os
from contextlib import nullcontext

import pytest
import torch

from retainfirst.errors import RetainFirstError
from retainfirst.unlearning import UnlearnConfig
from retainfirst.unlearning._arguments import training_arguments

FILES = {"model": "m", "forget": "f", "retain": "r", "output": "o"}


@pytest.fixture
def two_gpus(monkeypatch):
    """Let torch claim two GPUs; nothing is computed on them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(("name", "device"), [("cuda:1", "cuda:1"), ("cuda", "cuda:0"), ("cpu", "cpu")])
def test_a_named_device_is_the_only_one(two_gpus, tmp_path, monkeypatch, name, device):
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    arguments = training_arguments(UnlearnConfig(**FILES, device=name), tmp_path)
    assert arguments.device == arguments.distributed_state.device == torch.device(device)
    assert arguments.n_gpu == (device != "cpu")
    assert arguments.train_batch_size == 4
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_auto_is_left_to_transformers(two_gpus, tmp_path):
    arguments = training_arguments(UnlearnConfig(**FILES), tmp_path)
    assert arguments.device == torch.device("cuda", 0)


def test_another_device_than_the_named_one_is_refused(two_gpus, tmp_path, monkeypatch):
    monkeypatch.setattr("retainfirst.unlearning._arguments._accelerate_takes", lambda device: nullcontext())
    with pytest.raises(RetainFirstError, match="'cuda:1' cannot be used: transformers trains on 'cuda"):
        training_arguments(UnlearnConfig(**FILES, device="cuda:1"), tmp_path)


def test_a_device_that_is_absent_is_refused_with_the_settings(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RetainFirstError, match="'cuda:1' cannot be used: this machine has no cuda devices"):
        UnlearnConfig(**FILES, device="cuda:1")
