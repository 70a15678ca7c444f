"""DeepSpeed ZeRO 1, 2 and 3 on two processes, beside one process on all rows."""

from __future__ import annotations

import importlib.util

import pytest

import processes

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed is not installed; see docs/engines.md", allow_module_level=True)

import os

os.environ |= {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0"}

import deepspeed_cases
import hf_deepspeed_cases
import split_deepspeed_cases

NAMES = {
    kind: [name for name in deepspeed_cases.CASES if name.startswith(kind)]
    for kind in ("equal", "resumed", "bf16", "refused")
}


@pytest.mark.parametrize("name", NAMES["equal"])
def test_equal_to_one_process(name):
    for result in processes.results("deepspeed_cases.py", 2, name):
        # float32: sums over rows, micro-batches and processes in another order, two steps of at most 0.01 an element.
        # Adam's division makes most of small gradients' rounding, of which a Llama's adapters have more.
        assert result["error"] <= (1e-5 if "adapters" in name else 1e-6)
        assert result["geometry"] <= 2e-6


@pytest.mark.parametrize("name", NAMES["resumed"])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(name):
    for result in processes.results("deepspeed_cases.py", 2, name):
        assert result == {"equal": True, "moved": True}


@pytest.mark.parametrize("name", NAMES["bf16"])
def test_bf16_trains_and_the_processes_agree(name):
    first, second = processes.results("deepspeed_cases.py", 2, name)
    assert first["changed"]
    assert first["sum"] == second["sum"]
    assert first["cosine"] == second["cosine"] > 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("refused, stage 0", "use stage 1, 2 or 3"),
        ("refused, offloading", "set its device to none"),
        ("refused, geometry of one process", "geometry.all_reduce"),
        ("refused, guard", "moves flat copies of its partitions"),
    ],
)
def test_every_process_refuses(name, text):
    assert all(text in result["refused"] for result in processes.results("deepspeed_cases.py", 2, name))


@pytest.mark.parametrize("name", hf_deepspeed_cases.CASES)
def test_the_trainer_on_two_processes_trains_as_on_one(name):
    [one], two = ([rank[name] for rank in processes.found("hf_deepspeed_cases.py", world)] for world in (1, 2))
    for result in (one, *two):
        assert "raised" not in result, result["raised"]
    for result in two:
        assert result["parameters"] == pytest.approx(one["parameters"], rel=1e-5, abs=1e-6)
        for mine, theirs in zip(result["logs"], one["logs"], strict=True):
            for key in ("forget_loss", "retain_loss", "grad_norm", "cos_update_retain", "norm_update"):
                assert mine[key] == pytest.approx(theirs[key], rel=1e-4), key


@pytest.mark.parametrize("name", hf_deepspeed_cases.RESUMED)
def test_a_resumed_trainer_ends_where_the_uninterrupted_one_does(name):
    for rank in processes.found("hf_deepspeed_cases.py", 2):
        assert "raised" not in rank[name], rank[name]["raised"]
        assert rank[name] == {"equal": True, "step": 4}


@pytest.mark.parametrize("name", split_deepspeed_cases.OWN)
def test_a_split_trainer_trains_as_its_own_run(name):
    for rank in processes.found("split_deepspeed_cases.py", 2):
        result = rank[name]
        assert "raised" not in result, result["raised"]
        assert result["engine"] == "ZeroEngine"
        # float32: two gradients are averaged apart, or together.
        assert result["difference"] <= 1e-6
        assert result["moved"] > 1e-3


@pytest.mark.parametrize("name", split_deepspeed_cases.ONE)
def test_a_split_trainer_on_two_processes_trains_as_on_one(name):
    [one], two = ([rank[name] for rank in processes.found("split_deepspeed_cases.py", world)] for world in (1, 2))
    for result in (one, *two):
        assert "raised" not in result, result["raised"]
    for result in two:
        assert result["parameters"] == pytest.approx(one["parameters"], rel=1e-5, abs=1e-6)
