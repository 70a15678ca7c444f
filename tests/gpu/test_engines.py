"""One GPU and NCCL, in one process: each engine beside the same model without a wrapper, and the trainer beside itself.

``RETAINFIRST_TEST_DEVICE=cpu`` runs the same on a CPU with gloo, to try the tests out.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

if os.environ.get("RETAINFIRST_TEST_DEVICE", "cuda") == "cuda" and not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

sys.path.append(str(Path(__file__).parents[1] / "distributed"))
os.environ |= {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # what deterministic matrix products need

import engine_cases
import processes
import trainer_cases

NAMES = {
    kind: [name for name in engine_cases.CASES if name.startswith(kind)] for kind in ("float64", "near", "skipped")
}
SCRIPT = "../gpu/engine_cases.py"


def bound(name):
    """How far, of the way that the steps went, a wrapped model may end from the same without a wrapper.

    The operations are the same; only a library's choice of another kernel can tell them apart, in the order of its sums: some
    hundred terms in float32 (eps 6e-8, with room for terms that cancel), or rounded to 8 or 11 digits in between. A missing
    micro-batch, or a task for the other, would be 0.3 or more.
    """
    return 1e-4 if "float32" in name or "adapters" in name else 0.05


@pytest.mark.parametrize("name", NAMES["float64"])
def test_float64_ends_where_the_cpu_does(name):
    [result] = processes.results(SCRIPT, 1, name)
    assert result["error"] <= 1e-12
    assert result["geometry"] <= 1e-12


@pytest.mark.parametrize("name", NAMES["near"])
def test_a_wrapper_changes_nothing(name):
    [result] = processes.results(SCRIPT, 1, name)
    assert result["moved"] > 0
    assert result["error"] <= bound(name)
    assert result["geometry"] <= bound(name)


@pytest.mark.parametrize("name", NAMES["skipped"])
def test_infinity_in_either_task_skips_the_step_and_halves_the_scale(name):
    [result] = processes.results(SCRIPT, 1, name)
    assert result["scales"] == [[512.0] * 3] * 2
    assert result["moved"] > 0
    assert result["error"] <= bound(name)
    assert result["geometry"] <= bound(name)


def test_fsdp_1_that_does_not_shard_is_refused():
    [result] = processes.results(SCRIPT, 1, "refused, FSDP")
    assert "NO_SHARD is not supported; shard, or use DistributedDataParallel" in result["refused"]


@cache
def trainer(kind):
    return processes.run("../gpu/trainer_cases.py", 1, kind, env=trainer_cases.KINDS[kind])[0]


def trained(kind, name):
    result = trainer(kind)[name]
    assert "raised" not in result, result["raised"]
    assert result["engine"] == trainer_cases.ENGINES[kind]
    assert result["device"] == trainer_cases.DEVICE
    return result


def difference(result, expected):
    """How far apart two runs end, over how far the second went."""
    end, there, start = (torch.tensor(numbers) for numbers in (result["end"], expected["end"], expected["start"]))
    return ((end - there).norm() / (there - start).norm()).item()


@pytest.mark.parametrize("name", [name for name in trainer_cases.CASES if name != "overflow"])
@pytest.mark.parametrize("kind", ["DDP", "FSDP 2"])
def test_the_trainer_goes_the_same_way_in_a_wrapper(kind, name):
    result, expected = trained(kind, name), trained("plain", name)
    assert result["precision"] == expected["precision"]
    # As in bound(); but accelerate lets FSDP keep narrow copies of the weights and reduce narrow gradients, where autocast keeps
    # float32, so that the signs of small gradients turn as in test_precision.
    narrow = kind == "FSDP 2" and "16" in name
    assert difference(result, expected) <= (0.3 if narrow else 0.05 if "16" in name else 1e-4)
    for mine, theirs in zip(result["logs"], expected["logs"], strict=True):
        assert mine == pytest.approx(theirs, rel=0.05 if "16" in name else 1e-3, abs=0.05 if narrow else 1e-3)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_the_trainer_in_a_narrow_format_goes_the_way_of_float32(name):
    result = trained("plain", name)
    assert result["precision"][0] == name
    assert difference(result, trained("plain", "float32")) < 0.3


@pytest.mark.parametrize("kind", trainer_cases.KINDS)
def test_the_trainer_skips_steps_that_overflow(kind):
    if trainer_cases.DEVICE == "cpu":
        pytest.skip("accelerate scales no loss on a CPU")
    result = trained(kind, "overflow")
    assert result["end"] == result["start"]
    assert result["precision"] == ["fp16", 2.0**58]


@pytest.mark.parametrize("kind", trainer_cases.KINDS)
def test_the_trainer_resumes_to_the_end_of_the_uninterrupted_run(kind):
    assert trainer(kind)["resumed"] == {"equal": True, "step": 4}
