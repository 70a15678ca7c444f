"""The paper's experiments: they compose on the framework's configs, have the authors' settings, and stand in the table."""

from __future__ import annotations

import math
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from retainfirst import available_combiners
from retainfirst.scope import check_scope
from retainfirst_lab.paper import REPORTED
from retainfirst_open_unlearning.experiments import experiments, table

EXPERIMENTS = experiments()

# The configs of open-unlearning that ours use, with its structure.
FRAMEWORK = {
    "unlearn": """
        defaults:
          - model: Other
          - trainer: GradAscent
          - data: unlearn
          - collator: DataCollatorForSupervisedDataset
          - eval: tofu
          - paths: default
          - experiment: null
          - _self_
        trainer: {args: {remove_unused_columns: False}}
        mode: unlearn
        task_name: ???
        """,
    "model/Other": "model_args: {pretrained_model_name_or_path: other}",
    "model/zephyr-7b-beta": "model_args: {pretrained_model_name_or_path: HuggingFaceH4/zephyr-7b-beta}",
    "trainer/finetune": """
        handler: FinetuneTrainer
        args: {per_device_train_batch_size: 8, gradient_accumulation_steps: 4, learning_rate: 1.0e-5, num_train_epochs: 10,
               eval_strategy: epoch, eval_on_start: True, output_dir: '${paths.output_dir}'}
        """,
    "trainer/GradAscent": "defaults: [finetune]\nhandler: GradAscent",
    "trainer/GradDiff": """
        defaults: [finetune]
        handler: GradDiff
        method_args: {gamma: 1.0, alpha: 1.0, retain_loss_type: NLL}
        """,
    "trainer/NPO": """
        defaults: [finetune]
        handler: NPO
        method_args: {beta: 0.1, alpha: 1.0, gamma: 1.0, retain_loss_type: NLL}
        """,
    "trainer/SimNPO": """
        defaults: [finetune]
        handler: SimNPO
        method_args: {delta: 0.0, beta: 4.5, alpha: 1.0, gamma: 0.125, retain_loss_type: NLL}
        """,
    "data/unlearn": """
        defaults:
          - datasets@forget: TOFU_QA_forget
          - datasets@retain: TOFU_QA_retain
          - datasets@eval: null
        anchor: forget
        """,
    "data/datasets/TOFU_QA_forget": "TOFU_QA_forget: {handler: QADataset}",
    "data/datasets/TOFU_QA_retain": "TOFU_QA_retain: {handler: QADataset}",
    "data/datasets/WMDP_forget": "WMDP_forget: {handler: PretrainingDataset, args: {hf_args: {path: text, split: train}}}",
    "data/datasets/WMDP_retain": "WMDP_retain: {handler: PretrainingDataset, args: {hf_args: {path: text, split: train}}}",
    "collator/DataCollatorForSupervisedDataset": """
        DataCollatorForSupervisedDataset: {handler: DataCollatorForSupervisedDataset, args: {padding_side: right}}
        """,
    "eval/tofu": "# @package eval.tofu\nhandler: TOFUEvaluator",
    "eval/lm_eval": "# @package eval.lm_eval\nhandler: LMEvalEvaluator\ntasks: [mmlu]",
    "paths/default": "output_dir: saves/${task_name}",
}


class GradAscent:
    pass


class GradDiff:
    def compute_retain_loss(self):
        pass


class NPO(GradDiff):
    pass


class SimNPO(GradDiff):
    pass


@pytest.fixture
def framework(tmp_path, monkeypatch):
    """A folder of configs, and the module by which the plugin recognises the framework."""
    for name, text in FRAMEWORK.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
        file.write_text("\n".join(line[indent:] for line in lines) + "\n")
    trainer = ModuleType("trainer")
    trainer.TRAINER_REGISTRY = {one.__name__: one for one in (GradAscent, GradDiff, NPO, SimNPO)}
    monkeypatch.setitem(sys.modules, "trainer", trainer)
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base=None, config_dir=str(tmp_path)):
        yield trainer


def resolved(path: str, *overrides: str) -> DictConfig:
    config = compose("unlearn", [f"experiment={path}", "task_name=t", *overrides])
    OmegaConf.resolve(config)
    return config


def names(benchmark):
    return {one.path.rsplit("/retainfirst_", 1)[1] for one in EXPERIMENTS if f"/{benchmark}/" in one.path}


def test_all_experiments_of_the_authors_are_there():
    methods, combiners = ("graddiff", "npo", "simnpo"), ("sago", "pcgrad", "sum")
    bio_and_cyber = {
        f"{method}_{combiner}_{split}" for method in methods for combiner in combiners for split in ("bio", "cyber")
    }
    assert names("wmdp") == bio_and_cyber | {"graddiff_pcgrad_global_bio", "graddiff_pcgrad_global_cyber"}
    assert names("rwku") == {f"{method}_{combiner}" for method in methods for combiner in (*combiners, "pcgrad_global")}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.path)
def test_configs_compose_and_have_the_trainer_of_their_name(framework, experiment):
    config = resolved(experiment.path)
    assert not OmegaConf.missing_keys(config)
    benchmark, name = experiment.path.removeprefix("unlearn/").split("/")
    method, combiner, *rest = name.removeprefix("retainfirst_").split("_")
    assert (
        config.trainer.handler
        == experiment.trainer
        == "RetainFirst" + {"graddiff": "GradDiff", "npo": "NPO", "simnpo": "SimNPO"}[method]
    )
    options = config.trainer.method_args
    assert options.combiner == combiner in available_combiners()
    if combiner == "pcgrad":
        assert options.scope == ("global" if "global" in rest else "tensor")
        check_scope(options.scope)
    assert (
        set(options) - {"combiner", "combiner_options", "scope"}
        == {
            "graddiff": {"alpha", "gamma", "retain_loss_type"},
            "npo": {"alpha", "gamma", "retain_loss_type", "beta"},
            "simnpo": {"alpha", "gamma", "retain_loss_type", "beta", "delta"},
        }[method]
    )
    # The table has the numbers of the config.
    assert experiment.method_args.items() <= OmegaConf.to_container(options).items()
    assert experiment.args.items() <= OmegaConf.to_container(config.trainer.args).items()
    args = config.trainer.args
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 32
    assert "warmup_ratio" not in args, "transformers 5 does not have it"
    assert not args.eval_on_start
    if benchmark == "wmdp":
        assert args.warmup_steps == math.ceil(0.1 * args.max_steps)
        assert config.data_split in rest
        assert list(config.eval) == ["lm_eval"]
        assert config.eval.lm_eval.tasks[0] == f"wmdp_{config.data_split}"
        assert config.collator.DataCollatorForSupervisedDataset.handler == "RetainFirstDataCollatorForSupervisedDataset"
        for part in ("forget", "retain"):
            assert config.data[part][f"WMDP_{part}"].handler == "RetainFirstPretrainingDataset"
            assert config.data[part][f"WMDP_{part}"].args.hf_args.data_files.endswith(
                f"{config.data_split}-{part}-corpus.jsonl"
            )
    else:
        assert args.warmup_epochs == 0.1 * args.num_train_epochs
        assert list(config.eval) == ["rwku"]
        assert list(config.data.forget) == ["RWKU_forget"]
        assert list(config.data.retain) == ["RWKU_retain"]
        assert config.data.retain.RWKU_retain.handler == "RetainFirstRWKUPassages"


@pytest.mark.parametrize(
    ("path", "args", "method_args"),
    [
        ("wmdp/retainfirst_graddiff_sago_bio", {"learning_rate": 1e-5, "max_steps": 500}, {"alpha": 0.5, "gamma": 1.0}),
        ("wmdp/retainfirst_npo_sago_bio", {"max_steps": 150}, {"alpha": 1.0, "gamma": 0.1, "beta": 1e-4}),
        ("wmdp/retainfirst_npo_sago_cyber", {"max_steps": 300}, {"alpha": 0.1, "gamma": 1.0, "beta": 1e-3}),
        ("wmdp/retainfirst_npo_pcgrad_cyber", {"max_steps": 100}, {"alpha": 0.1, "gamma": 1.0, "beta": 5e-3}),
        (
            "wmdp/retainfirst_simnpo_sago_bio",
            {"max_steps": 150},
            {"alpha": 0.1, "gamma": 1.0, "beta": 0.02, "delta": 0.1},
        ),
        ("wmdp/retainfirst_simnpo_sago_cyber", {"max_steps": 200}, {"alpha": 0.1, "beta": 0.1, "delta": 0.1}),
        ("wmdp/retainfirst_simnpo_pcgrad_cyber", {"max_steps": 100}, {"alpha": 0.1, "beta": 1.0}),
        ("wmdp/retainfirst_graddiff_pcgrad_global_bio", {"max_steps": 300}, {"scope": "global"}),
        ("wmdp/retainfirst_graddiff_sum_bio", {"learning_rate": 3e-6, "max_steps": 100}, {"combiner": "sum"}),
        (
            "rwku/retainfirst_graddiff_sago",
            {"learning_rate": 1e-5, "num_train_epochs": 2},
            {"alpha": 1.0, "gamma": 1.0},
        ),
        ("rwku/retainfirst_graddiff_pcgrad", {"learning_rate": 3e-6}, {"scope": "tensor"}),
        ("rwku/retainfirst_graddiff_pcgrad_global", {"learning_rate": 4e-6}, {"scope": "global"}),
        ("rwku/retainfirst_npo_sago", {"learning_rate": 1e-5}, {"beta": 1e-3}),
        ("rwku/retainfirst_simnpo_sago", {"learning_rate": 1e-5}, {"alpha": 0.1, "beta": 0.1, "delta": 0.1}),
    ],
)
def test_literal_hyperparameters(path, args, method_args):
    (one,) = [one for one in EXPERIMENTS if one.path == f"unlearn/{path}"]
    assert args.items() <= one.args.items()
    assert method_args.items() <= one.method_args.items()


def test_rwku_subjects_and_folder_reach_data_and_evaluator(framework):
    config = resolved(
        "unlearn/rwku/retainfirst_npo_sago", "rwku_path=/some/where", "forget_subjects=[Socrates]", "retain_subjects=2"
    )
    assert config.data.forget.RWKU_forget.args.path == config.data.retain.RWKU_retain.args.path == "/some/where"
    assert config.eval.rwku.path == "/some/where"
    assert config.data.forget.RWKU_forget.args.subjects == config.eval.rwku.subjects == ["Socrates"]
    assert config.data.retain.RWKU_retain.args.subjects == 2
    default = resolved("unlearn/rwku/retainfirst_npo_sago")
    assert default.eval.rwku.path == "jinzhuoran/RWKU"
    assert default.data.forget.RWKU_forget.args.subjects == "1-50"
    assert default.data.retain.RWKU_retain.args.subjects == "151-200"


@pytest.mark.parametrize(
    "probe", ["forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2"]
)
def test_probes_are_data_sets(framework, probe):
    config = compose("unlearn", ["task_name=t", f"data/datasets@data.forget=RWKU_{probe}"])
    assert config.data.forget[f"RWKU_{probe}"].handler == "RetainFirstRWKUProbes"
    assert config.data.forget[f"RWKU_{probe}"].args.part == probe


def test_the_frameworks_own_config_wins_a_clash(framework, tmp_path):
    (tmp_path / "model/Llama-3-8B-Instruct.yaml").write_text("model_args: {pretrained_model_name_or_path: theirs}")
    config = compose("unlearn", ["task_name=t", "model=Llama-3-8B-Instruct"])
    assert config.model.model_args.pretrained_model_name_or_path == "theirs"


def test_table_has_each_experiment_once_with_its_number():
    lines = table().splitlines()[2:]
    assert len(lines) == len(EXPERIMENTS)
    for line, one in zip(lines, EXPERIMENTS, strict=True):
        assert f"`{one.path.removeprefix('unlearn/')}`" in line
        assert f"experiment={one.path} " in line
        assert one.reported in line
    assert (
        "lr 1e-05, 150 steps, batch 32, combiner sago, alpha 0.1, gamma 1, beta 0.02, delta 0.1 | WMDP Bio 28.2, MMLU 57.4"
        in table()
    )


def test_every_reported_number_belongs_to_an_experiment():
    assert set(REPORTED) <= {one.path.removeprefix("unlearn/") for one in EXPERIMENTS}


def test_table_as_a_command():
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "retainfirst_open_unlearning.experiments"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == table()


def test_every_config_is_a_file_of_the_package():
    conf = Path(str(resources.files("retainfirst_open_unlearning.conf")))
    assert (conf / "__init__.py").is_file(), "pkg:// needs it"
    assert len(list(conf.rglob("retainfirst_*.yaml"))) == len(EXPERIMENTS) + 2 + 1  # two bases, one evaluator


def test_the_page_has_the_table_as_it_is():
    page = (Path(__file__).parents[2] / "docs" / "open-unlearning.md").read_text()
    assert table().strip() in page, "put in what python -m retainfirst_open_unlearning.experiments prints"
