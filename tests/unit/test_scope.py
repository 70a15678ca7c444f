"""Grouping of parameters by name."""

from __future__ import annotations

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst.scope import SCOPES, group_by_scope

LLAMA = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.10.mlp.up_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
]


def test_block_groups_by_repeated_layer_and_the_rest_by_top_level_module():
    assert group_by_scope(LLAMA, "block") == {
        "model": [0, 5], "model.layers.0": [1, 2, 3], "model.layers.10": [4], "lm_head": [6]
    }  # fmt: skip


def test_module_groups_a_weight_with_its_bias():
    groups = group_by_scope(LLAMA, "module")
    assert groups["model.layers.0.self_attn.q_proj"] == [1, 2]
    assert len(groups) == 6


def test_tensor_and_global():
    assert group_by_scope(LLAMA, "tensor") == {name: [i] for i, name in enumerate(LLAMA)}
    assert group_by_scope(LLAMA, "global") == {"global": list(range(7))}


@pytest.mark.parametrize(
    ("name", "block"),
    [("0.weight", "0"), ("layer1.0.conv1.weight", "layer1.0"), ("h.3.experts.5.w", "h.3"), ("weight", "weight"),
     ("params.2", "params.2"), ("fc2.weight", "fc2")],
)  # fmt: skip
def test_unusual_names(name, block):
    assert list(group_by_scope([name], "block")) == [block]


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod."])
def test_blocks_are_the_same_under_a_wrapper(wrapper):
    assert group_by_scope([wrapper + name for name in LLAMA], "block") == group_by_scope(LLAMA, "block")


@pytest.mark.parametrize("scope", SCOPES)
def test_every_parameter_is_in_one_group(scope):
    members = [i for group in group_by_scope(LLAMA, scope).values() for i in group]
    assert sorted(members) == list(range(len(LLAMA)))


def test_unknown_scope():
    with pytest.raises(RetainFirstError, match="Did you mean 'global'"):
        group_by_scope(LLAMA, "gobal")
