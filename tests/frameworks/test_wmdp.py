"""The WMDP code of an unedited checkout of Unlearn-Smooth: batches are dictionaries of tuples, and transformers is 4.37."""

from __future__ import annotations

import json

import pytest

from checkouts import launch, same, text

FOLDER = "---\nconfigs:\n{}---\n"
CONFIG = "- config_name: {}\n  data_files:\n{}"
SPLIT = "  - split: {0}\n    path: {0}.jsonl\n"


@pytest.fixture(scope="module")
def wmdp(code_base):
    """It reads its sources and data from the working directory; folders stand in for data sets of the hub."""
    made = code_base("WMDP", HARNESS_FASTARGS="1")
    source, folder = made.home / "WMDP", made.workspace
    (folder / "src").symlink_to(source / "src")
    rows = [[{"text": text(seed, 80)} for seed in range(start, start + 24)] for start in (0, 24)]
    write(folder / "files/data/bio_remove_dataset.jsonl", rows[0][:12])
    refusals = "polite_refusal_responses"
    (folder / "files/data" / refusals).symlink_to(source / "files/data" / refusals)
    for name in ("train", "test"):
        write(folder / f"wikitext/{name}.jsonl", rows[1])
    splits = SPLIT.format("train") + SPLIT.format("test")
    (folder / "wikitext/README.md").write_text(FOLDER.format(CONFIG.format("wikitext-2-raw-v1", splits)))
    write(folder / "cais/wmdp/test.jsonl", [{"question": "Where?", "choices": list("abcd"), "answer": 0}] * 2)
    (folder / "cais/wmdp/README.md").write_text(FOLDER.format(CONFIG.format("wmdp-bio", SPLIT.format("test"))))
    evaluation = folder / "bin/lm_eval"  # it evaluates after the training by this command, which would need the hub
    evaluation.parent.mkdir()
    evaluation.write_text("#!/bin/sh\n")
    evaluation.chmod(0o755)
    return made


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def unlearn(wmdp, method, combiner, output, *, lora=False, accumulation=1, **environment):
    output.mkdir()
    config = {
        "overall": {"model_name": str(wmdp.model), "logger": "json", "cache_dir": "./.cache", "seed": 0},
        "unlearn": {
            "unlearn_method": method, "num_epochs": 1, "lr": 1e-3, "gradient_accumulation_steps": accumulation,
            "task_name": "wmdp", "max_steps": 3, "use_lora": lora, method: {"gamma": 0.5, "beta": 0.1},
        },
        "dataset": {
            "forget_dataset_name": "WMDPBio", "retain_dataset_name": "WMDPBio", "dataset_seed": 42, "forget_ratio": 1.0,
            "self_retain": False, "batch_size": 2,
        },
        "logger": {"name": "run", "json": {"root": str(output)}},
    }  # fmt: skip
    (output / "config.json").write_text(json.dumps(config))
    said = wmdp.run(
        *launch(combiner), "src/exec/unlearn_model.py", "--config-file", str(output / "config.json"),
        cwd=wmdp.workspace, **environment,
    )  # fmt: skip
    assert combiner is None or f"{method.replace('+', '_')} takes its two gradients apart" in said
    return output / "run/checkpoints"


LOSSES = {"NPO+FT": ("npo_batch", "nll"), "GA+FT": ("ga", "nll")}


@pytest.mark.parametrize("method", LOSSES)
def test_sum_ends_in_the_parameters_of_its_own_run(wmdp, method, tmp_path):
    own = unlearn(wmdp, method, None, tmp_path / "own")
    assert same(own, unlearn(wmdp, method, "sum", tmp_path / "sum"))
    assert not same(own, wmdp.model)


def test_lora_with_dropout(wmdp, tmp_path):
    """In float32: under autocast this transformers adds the gradients of both losses in bfloat16 in its own run."""
    own, ours = (
        unlearn(wmdp, "NPO+FT", combiner, tmp_path / str(combiner), lora=True, HARNESS_DTYPE="float32")
        for combiner in (None, "sum")
    )
    assert same(own, ours)
    assert not same(own, wmdp.model)


@pytest.mark.parametrize("method", LOSSES)
@pytest.mark.parametrize("combiner", ["sago", "pcgrad"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_first_step_equals_the_formulas(wmdp, method, combiner, dtype, tmp_path):
    """The dot products of pcgrad add up in another order than the formula's: in float32 a rounding or two of the update."""
    own = dtype == "bfloat16"
    unlearn(
        wmdp, method, combiner, tmp_path / "out", HARNESS_RECORD=str(tmp_path / "record"),
        HARNESS_DTYPE="" if own else dtype,
    )  # fmt: skip
    precision = "autocast" if own else "plain"
    found = wmdp.compare(tmp_path / "record", dtype, precision, "1.0", *LOSSES[method], combiner, "0.5")
    if combiner == "sago":
        assert found["difference"] == 0
    else:
        assert found["difference"] <= (2**-8 if own else 1e-6) * found["size"]


def test_accumulation(wmdp, tmp_path):
    unlearn(
        wmdp, "NPO+FT", "sago", tmp_path / "out", accumulation=2, HARNESS_RECORD=str(tmp_path / "record"),
        HARNESS_DTYPE="float32",
    )  # fmt: skip
    found = wmdp.compare(tmp_path / "record", "float32", "plain", "1.0", *LOSSES["NPO+FT"], "sago", "0.5")
    assert found["microbatches"] == 2
    assert found["difference"] <= 1e-6 * found["size"]  # the order in which two microbatches are divided and added


@pytest.mark.parametrize("method", ["NPO+FT+SAM", "NPO+FT+RS"])
def test_trainers_with_a_training_step_of_their_own_are_refused(wmdp, method, tmp_path):
    with pytest.raises(AssertionError, match="has a training_step of its own"):
        unlearn(wmdp, method, "sago", tmp_path / "out")
