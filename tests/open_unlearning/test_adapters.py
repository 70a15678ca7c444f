"""RetainFirstLoRA and stop_at_forget by the framework's own commands: training, evaluation after it, several processes."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file
from test_command import LAUNCHERS, logs

from rwku_files import write_by_subject

LORA = ("+model.model_handler=RetainFirstLoRA", "+model.model_args.lora_rank=4", "trainer.args.learning_rate=0.01")
STOP = (
    "+trainer.method_args.stop_at_forget.at_most=0.002", "+trainer.method_args.stop_at_forget.every=1",
    "+trainer.method_args.stop_at_forget.patience=1", "+trainer.method_args.stop_at_forget.rows=5",
    "trainer.args.gradient_accumulation_steps=1", "++trainer.args.max_steps=8", "trainer.method_args.combiner=sum",
    "trainer.method_args.gamma=4.0", "trainer.args.learning_rate=0.02", "trainer.args.ddp_find_unused_parameters=false",
)  # fmt: skip
OF_ADAPTERS = {
    "RMU": (r"trainer.method_args.module_regex='.*model\.layers\.1'", "trainer.method_args.trainable_params_regex=['.*lora_.*']"),
    "GradDiff": ("trainer.method_args.retain_loss_type=KL",),
}  # fmt: skip


@pytest.fixture(autouse=True)
def with_peft(framework):
    if framework.call("-c", "import peft").returncode:
        pytest.skip("the framework's environment has no peft")


@pytest.mark.parametrize("save", ["adapter", "merged"])
def test_the_frameworks_evaluation_reads_what_training_saves(framework, save, tmp_path):
    """It gives the same answers as the evaluation of the trained model in memory."""
    write_by_subject(tmp_path / "rwku")
    rwku = ("eval=retainfirst_rwku", f"eval.rwku.path={tmp_path}/rwku")
    done = framework.train(
        "RetainFirstNPO", tmp_path / "out", *LORA, f"+model.model_args.lora_save={save}", *rwku, "~eval.tofu",
        "trainer.args.do_eval=true", "trainer.args.gradient_checkpointing=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(logs(tmp_path / "out")) == 2
    model = tmp_path / "out"
    done = framework.call(
        "src/eval.py", "--config-name=eval.yaml", *rwku, "task_name=after", f"paths.output_dir={tmp_path}/eval",
        f"model.model_args.pretrained_model_name_or_path={model}", "model.model_args.attn_implementation=sdpa",
        f"model.tokenizer_args.pretrained_model_name_or_path={model}", "model.model_args.torch_dtype=float32",
        "model.model_args.device_map=cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [
        {name: metric["value_by_index"] for name, metric in json.loads(file.read_text()).items() if "value_by_index" in metric}
        for file in (tmp_path / "eval" / "RWKU_EVAL.json", model / "checkpoint-2" / "evals" / "RWKU_EVAL.json")
    ]  # fmt: skip
    assert answers[0]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("method", ["NPO", "DPO", "UNDIAL", "RMU", "GradDiff"])
def test_methods_with_a_reference(framework, method, tmp_path):
    done = framework.train(f"RetainFirst{method}", tmp_path, *LORA, *OF_ADAPTERS.get(method, ()))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(logs(tmp_path)) == 2
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    assert any(bool(one.any()) for name, one in adapter.items() if "lora_B" in name)


def test_rmu_on_the_base_is_refused(framework, tmp_path):
    done = framework.train("RetainFirstRMU", tmp_path, *LORA, *OF_ADAPTERS["RMU"][:1])
    assert done.returncode != 0
    assert "parameters of the base model, such as" in done.stderr
    assert not (tmp_path / "trainer_state.json").exists()


@pytest.mark.parametrize("model", ["whole", "lora"])
@pytest.mark.parametrize("launcher", ["one", "torchrun"])
def test_a_run_stops_at_the_target_and_keeps_the_best(framework, model, launcher, tmp_path):
    """The final model is the checkpoint that was kept."""
    done = framework.train(
        "RetainFirstGradDiff",
        tmp_path,
        *(LORA[:2] if model == "lora" else ()),
        *STOP,
        launch=LAUNCHERS.get(launcher, ()),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "stop_at_forget.json").read_text())
    assert record["reached"]
    kept = tmp_path / f"checkpoint-{record['kept']['step']}"
    assert list(tmp_path.glob("checkpoint-*")) == [kept]
    name = "adapter_model.safetensors" if model == "lora" else "model.safetensors"
    final, best = load_file(tmp_path / name), load_file(kept / name)
    assert all(one.equal(best[key]) for key, one in final.items())


def test_bad_options_are_refused_before_the_first_step(framework, tmp_path):
    for more, says in (
        (["+model.model_handler=RetainFirstLora"], "Did you mean 'RetainFirstLoRA'"),
        ([*LORA[:1], "+model.model_args.lora_rank=0"], "model.model_args.lora_rank must be a whole number above 0"),
        (["+trainer.method_args.stop_at_forget=0.1"], "trainer.method_args.stop_at_forget: 0.1 has no at_most"),
    ):
        done = framework.train("RetainFirstNPO", tmp_path, *more)
        assert done.returncode != 0
        assert says in done.stderr + done.stdout
