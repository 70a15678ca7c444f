"""The trainer of the TOFU family, as NPO's ``forget.py`` in an unedited checkout has it: ZeRO-3, batches are lists of tuples."""

from __future__ import annotations

import pytest

from checkouts import launch, same


@pytest.fixture(scope="module")
def npo(code_base):
    """It reads its configs and data from the working directory, and the tokenizer by a name of the hub: a folder of that name."""
    made = code_base("NPO", DS_ACCELERATOR="cpu", DS_BUILD_OPS="0", LOCAL_SIZE="1")
    for name in ("config", "TOFU_data", "data"):
        (made.workspace / name).symlink_to(made.home / "TOFU" / name)
    (made.workspace / "microsoft").mkdir()
    (made.workspace / "microsoft/phi-1_5").symlink_to(made.model)
    return made


def forget(npo, loss, combiner, output, *options, **environment):
    said = npo.run(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", *launch(combiner, *options),
        str(npo.home / "TOFU/forget.py"), "--config-name=forget.yaml", "split=forget20", "retain_set=retain80",
        "model_family=phi", f"model_path={npo.model}", "lr=1e-3", "batch_size=2", "gradient_accumulation_steps=1",
        "num_epochs=0.01", f"forget_loss={loss}", "eval_steps=1000", "warmup_steps=1", f"save_dir={output}",
        "overwrite_dir=true", "+aggr_save_dir=x", f"hydra.run.dir={output}/hydra", cwd=npo.workspace, **environment,
    )  # fmt: skip
    assert combiner is None or "CustomTrainerForgetting takes its two gradients apart" in said
    return output / "checkpoint-4"  # under ZeRO-3 the last save of the script has placeholders


LOSSES = {
    "npo_grad_diff": ("npo_rows", "nll"),
    "KL": ("ga", "kl"),
    "grad_diff": ("ga", "nll"),
    "npo_KL": ("npo_rows", "kl"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_sum_ends_in_the_parameters_of_its_own_run(npo, loss, tmp_path):
    own = forget(npo, loss, None, tmp_path / "own")
    assert same(own, forget(npo, loss, "sum", tmp_path / "sum"))
    assert not same(own, npo.model)


@pytest.mark.parametrize("loss", ["npo_grad_diff", "KL"])
@pytest.mark.parametrize("combiner", ["sago", "pcgrad"])
def test_the_first_step_equals_the_formulas(npo, loss, combiner, tmp_path):
    """In float32. ZeRO 3 has linear layers of its own, whose gradients differ by rounding, and so may the sign of one near 0."""
    forget(npo, loss, combiner, tmp_path / "out", HARNESS_RECORD=str(tmp_path / "record"), HARNESS_DTYPE="float32")
    found = npo.compare(tmp_path / "record", "float32", "plain", "0", *LOSSES[loss], combiner)
    assert found["difference_of_clear_signs"] <= 1e-5 * found["size"]
    assert found["clear"] > 0.5


def test_three_parts_of_which_two_are_forgotten(npo, tmp_path):
    """DPO's refusal, forget and retain rows. Its own run adds three gradients, and in bfloat16 their order shows."""
    forget(npo, "dpo_grad_diff", "sago", tmp_path / "out", "--parts", "forget,forget,retain")
