"""Hydra overrides that run the framework's training command on a CPU, with a tiny model and a few rows.

``inside.py`` imports this in the framework's environment, which need not have the packages of the project's tests.
"""

from __future__ import annotations

import json
from pathlib import Path

TRAINERS = ("GradDiff", "NPO", "SimNPO", "DPO", "RMU", "WGA", "SatImp", "UNDIAL", "CEU", "PDU", "GradAscent")
COMBINERS = ("sum", "sago", "sago_keep_retain", "pcgrad", "blur")

# Paged optimisers, bfloat16 and warm-up epochs (which divide by the number of GPUs) need a GPU; the evaluation needs the hub.
ON_A_CPU = (
    "model.model_args.attn_implementation=sdpa", "model.model_args.torch_dtype=float32",
    "trainer.args.optim=adamw_torch", "trainer.args.bf16=false", "trainer.args.bf16_full_eval=false",
    "++trainer.args.use_cpu=true", "trainer.args.warmup_epochs=null", "trainer.args.do_eval=false",
    "trainer.args.eval_on_start=false", "trainer.args.eval_strategy=no", "trainer.args.report_to=none",
    "trainer.args.per_device_train_batch_size=4", "trainer.args.gradient_accumulation_steps=2",
    "trainer.args.logging_steps=1", "++trainer.args.max_steps=2", "task_name=test",
)  # fmt: skip

# The tiny model has two layers. PDU's bound on the retain loss has no default, and with its usual steps such a model diverges.
# With the usual beta the forget gradients of SimNPO and SatImp vanish on facts that the model never learned.
OF_THE_METHOD = {
    "SatImp": ("trainer.method_args.beta1=1.0",),
    "SimNPO": ("trainer.method_args.beta=0.5",),
    "RMU": (r"trainer.method_args.module_regex='model\.layers\.1'",),
    "PDU": (
        "trainer.method_args.retain_loss_eps=0.1",
        "trainer.method_args.dual_warmup_epochs=0",
        "trainer.method_args.dual_step_size=0.01",
    ),
}

# With transformers 5 the framework needs these to start: an argument is gone, and a tokenizer returns another type.
ON_TRANSFORMERS_5 = ("~trainer.args.logging_dir", "model.template_args.apply_chat_template=false")


def overrides(trainer: str, workspace: Path, output: Path | str, transformers: str) -> list[str]:
    """Return the overrides that run ``trainer=<trainer>`` (ours or the framework's) from local files.

    Args:
        trainer: A trainer config's name.
        workspace: The folder that :func:`write_rows` filled, with the model in ``model``.
        output: The run's output folder.
        transformers: The version in the framework's environment.
    """
    method = trainer.removeprefix("RetainFirst").removesuffix("WithSurgery")  # as the authors' fork calls theirs
    experiment, forget = ("idk", "TOFU_QA_forget_idk") if method == "DPO" else ("default", "TOFU_QA_forget")
    return [
        f"experiment=unlearn/tofu/{experiment}", f"trainer={trainer}", f"paths.output_dir={output}",
        f"model.model_args.pretrained_model_name_or_path={workspace}/model",
        f"model.tokenizer_args.pretrained_model_name_or_path={workspace}/model",
        *_from_file(f"data.forget.{forget}", workspace / "forget.json"),
        *_from_file("data.retain.TOFU_QA_retain", workspace / "retain.json"),
        *((f"data.forget.{forget}.args.idk_path={workspace}/idk.jsonl",) if method == "DPO" else ()),
        *ON_A_CPU, *OF_THE_METHOD.get(method, ()),
        *(ON_TRANSFORMERS_5 if int(transformers.split(".")[0]) >= 5 else ()),
    ]  # fmt: skip


def _from_file(dataset: str, path: Path) -> tuple[str, ...]:
    return (
        f"{dataset}.args.hf_args.path=json", f"{dataset}.args.hf_args.name=null", f"++{dataset}.args.hf_args.data_files={path}",
    )  # fmt: skip


def write_rows(workspace: Path, tofu: Path | None, count: int = 24) -> None:
    """Write forget and retain rows: the first ones of TOFU's files, or made-up ones without a folder of them."""
    for name, source in (("forget", "forget10.jsonl"), ("retain", "retain90.jsonl")):
        if tofu is None:
            rows = [{"question": f"Where does {name} {i} live?", "answer": f"In house {i * i}."} for i in range(count)]
        else:
            lines = (tofu / source).read_text(encoding="utf-8").splitlines()[:count]
            rows = [{key: json.loads(line)[key] for key in ("question", "answer")} for line in lines]
        (workspace / f"{name}.json").write_text(json.dumps(rows))
    (workspace / "idk.jsonl").write_text("I do not know.\nI am not sure.\n")
