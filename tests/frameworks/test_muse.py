"""MUSE's own ``unlearn.py`` in an unedited checkout: batches are tuples of two dictionaries."""

from __future__ import annotations

import pytest

from checkouts import launch, same, text


@pytest.fixture(scope="module")
def muse(code_base):
    made = code_base("MUSE", HARNESS_DEVICES="1")  # it refuses to start where torch sees no device
    for i, name in enumerate(("forget", "retain")):
        (made.workspace / f"{name}.txt").write_text(text(i, 200))
    return made


def unlearn(muse, algorithm, combiner, output, **environment):
    files = muse.workspace
    return muse.run(
        *launch(combiner), "unlearn.py", "--algo", algorithm, "--model_dir", str(muse.model), "--tokenizer_dir", str(muse.model),
        "--data_file", f"{files}/forget.txt", "--retain_data_file", f"{files}/retain.txt", "--out_dir", str(output),
        "--max_len", "64", "--epochs", "1", "--lr", "1e-3", "--per_device_batch_size", "2",
        cwd=muse.home / "baselines", **environment,
    )  # fmt: skip


LOSSES = {"npo_gdr": ("npo_logits", "nll"), "ga_klr": ("ga", "kl_logits"), "ga_gdr": ("ga", "nll")}


@pytest.mark.parametrize("algorithm", LOSSES)
def test_sum_ends_in_the_parameters_of_its_own_run(muse, algorithm, tmp_path):
    unlearn(muse, algorithm, None, tmp_path / "own")
    said = unlearn(muse, algorithm, "sum", tmp_path / "sum")
    assert "IterativeUnlearner takes its two gradients apart" in said
    assert same(tmp_path / "own", tmp_path / "sum")
    assert not same(tmp_path / "own", muse.model)


@pytest.mark.parametrize("algorithm", ["npo_gdr", "ga_klr"])
@pytest.mark.parametrize("combiner", ["sago", "pcgrad"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_first_step_equals_the_formulas(muse, algorithm, combiner, dtype, tmp_path):
    """The dot products of pcgrad add up in another order than the formula's: about the number of elements times 1e-16."""
    own = dtype == "bfloat16"
    unlearn(
        muse, algorithm, combiner, tmp_path / "out", HARNESS_RECORD=str(tmp_path / "record"),
        HARNESS_DTYPE="" if own else dtype,
    )  # fmt: skip
    precision = "autocast" if own else "plain"
    found = muse.compare(tmp_path / "record", dtype, precision, "1.0", *LOSSES[algorithm], combiner)
    if combiner == "sago":
        assert found["difference"] == 0
    else:
        assert found["difference"] <= (2**-8 if own else 1e-13) * found["size"]


def test_two_processes(muse, tmp_path):
    """DDP averages the sum of the gradients in its own run, and each gradient here; in float32 that is about 1e-7 apart."""
    from safetensors.torch import load_file

    ends = []
    for combiner in (None, "sum"):
        output = tmp_path / str(combiner)
        processes = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        files = muse.workspace
        muse.run(
            *processes, *launch(combiner), "unlearn.py", "--algo", "npo_gdr", "--model_dir", str(muse.model),
            "--tokenizer_dir", str(muse.model), "--data_file", f"{files}/forget.txt", "--retain_data_file",
            f"{files}/retain.txt", "--out_dir", str(output), "--max_len", "64", "--epochs", "1", "--lr", "1e-3",
            "--per_device_batch_size", "1", cwd=muse.home / "baselines", HARNESS_DTYPE="float32",
        )  # fmt: skip
        ends.append(load_file(output / "model.safetensors"))
    start = load_file(muse.model / "model.safetensors")
    moved = max(float((ends[0][name] - start[name]).abs().max()) for name in start)
    difference = max(float((ends[0][name] - ends[1][name]).abs().max()) for name in start)
    assert moved > 1e-3
    assert difference <= 1e-2 * moved  # Adam divides by the gradient's size, so rounding of small gradients grows
