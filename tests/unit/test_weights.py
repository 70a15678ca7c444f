"""The digest of a model's weights."""

from __future__ import annotations

import copy

import pytest
import torch

import tiny
from retainfirst.weights import weights_digest


def test_equal_models_have_equal_digests():
    model = tiny.tiny_llama()
    assert weights_digest(model) == weights_digest(copy.deepcopy(model))
    assert weights_digest(model) == weights_digest(model.train())


@torch.no_grad()
def _one_bit(model):
    next(model.parameters()).view(torch.int32).view(-1)[3] ^= 1


def _add_buffer(model):
    model.register_buffer("extra", torch.zeros(1))


def _other_config(model):
    model.config.rope_theta = 1.0 + (getattr(model.config, "rope_theta", None) or 0.0)


@pytest.mark.parametrize("change", [_one_bit, _add_buffer, _other_config, lambda model: model.bfloat16()])
def test_a_changed_model_has_another_digest(change):
    model = tiny.tiny_llama()
    before = weights_digest(model)
    change(model)
    assert weights_digest(model) != before


def test_weights_that_are_elsewhere_have_no_digest():
    assert weights_digest(torch.nn.Linear(2, 2, device="meta")) is None
    partitioned = torch.nn.Linear(2, 2)
    partitioned.weight.ds_id = 0  # as ZeRO-3 marks a parameter that it has partitioned
    assert weights_digest(partitioned) is None
