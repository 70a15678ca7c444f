"""Measures for runs, and what tests look at afterwards."""

from __future__ import annotations

import signal
from pathlib import Path

import torch
from safetensors.torch import load_file


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class InterruptsAt:
    """Measures nothing; presses Ctrl-C at one of its calls during training."""

    name = "probability"

    def __init__(self, call):
        self.calls, self.call = 0, call

    def forget(self, _):
        self.calls += 1
        if self.calls == self.call:
            signal.raise_signal(signal.SIGINT)
        return 0.5

    def retain(self, _):
        return 0.5


class Terminates(InterruptsAt):
    """Sends SIGTERM, as a batch system does."""

    def forget(self, _):
        self.calls += 1
        if self.calls == self.call:
            signal.raise_signal(signal.SIGTERM)
        return 0.5


class Measures:
    """Gives the numbers of a list, one a call, and then the last one."""

    name = "probability"

    def __init__(self, *values):
        self.values = list(values)

    def forget(self, _):
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]

    def retain(self, _):
        return 0.5


def saved_model(model, folder):
    """Save a model with the tiny tokenizer; return the folder's name."""
    from tiny import tiny_tokenizer

    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)
