"""The framework's own command in an unedited checkout: trainers, combiners, launchers, logs, checkpoints and errors."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
from pathlib import Path

import commands
import pytest
from safetensors.torch import load_file, save_file

import strangers
from rwku_files import write_by_subject

LOGGED = {
    "forget_loss", "retain_loss", "cos_forget_retain", "cos_update_retain", "cos_update_forget", "conflict_fraction",
    "norm_forget", "norm_retain", "norm_update",
}  # fmt: skip


def logs(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [log for log in history if "loss" in log and "forget_loss" in log]


@pytest.mark.parametrize("method", commands.TRAINERS)
def test_every_trainer_with_every_combiner(framework, method, tmp_path):
    """Hydra's sweep runs one job for each combiner in one process."""
    done = framework.train(
        f"RetainFirst{method}", tmp_path / "${trainer.method_args.combiner}",
        f"trainer.method_args.combiner={','.join(commands.COMBINERS)}", sweep=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    start = load_file(framework.workspace / "model" / "model.safetensors")
    for combiner in commands.COMBINERS:
        assert len(logs(tmp_path / combiner)) == 2
        for log in logs(tmp_path / combiner):
            assert set(log) >= LOGGED
            if method == "RMU" and log["norm_retain"] == 0:
                continue  # its first retain loss is a distance of 0, so the gradient is 0 and a cosine with it is NaN
            assert all(math.isfinite(log[key]) for key in LOGGED)
            if combiner in ("sago", "sago_keep_retain", "pcgrad"):  # T2
                assert log["cos_update_retain"] >= 0
        ends = load_file(tmp_path / combiner / "model.safetensors")
        assert any(not ends[name].equal(start[name]) for name in ends)


def test_every_scope(framework, tmp_path):
    done = framework.train(
        "RetainFirstNPO", tmp_path / "${trainer.method_args.scope}", "trainer.method_args.combiner=pcgrad",
        "trainer.method_args.scope=tensor,module,block,global", sweep=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(len(logs(tmp_path / scope)) == 2 for scope in ("tensor", "module", "block", "global"))


def test_the_documented_sweep_leaves_one_model_for_each_job(framework, tmp_path):
    """With task_name in the output folder, as in the framework's own paths; without the combiner in it, a job is refused."""
    output = tmp_path / "${task_name}"
    combiners = "trainer.method_args.combiner=sum,sago"
    done = framework.train(
        "RetainFirstNPO", output, combiners, "task_name=npo_${trainer.method_args.combiner}", sweep=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [load_file(tmp_path / f"npo_{name}" / "model.safetensors") for name in ("sum", "sago")]
    assert any(not ends[0][name].equal(ends[1][name]) for name in ends[0])
    done = framework.train("RetainFirstNPO", output, combiners, "task_name=npo", sweep=True)
    assert done.returncode != 0
    assert "job 1 of this sweep would replace the model of job 0 in" in done.stderr
    done = framework.train("RetainFirstNPO", output, "task_name=npo")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "has the model of an earlier run, which this run replaces" in done.stdout + done.stderr


WORKERS = {"joblib": ["hydra.launcher.n_jobs=2"], "submitit_local": ["hydra.launcher.timeout_min=10"]}


@pytest.mark.parametrize("launcher", WORKERS)
def test_launchers_that_start_fresh_workers(framework, launcher, tmp_path):
    if framework.call("-c", f"import hydra_plugins.hydra_{launcher.split('_')[0]}_launcher").returncode:
        pytest.skip(f"the framework's environment has no hydra-{launcher.split('_')[0]}-launcher")
    done = framework.train(
        "RetainFirstNPO", tmp_path / "${trainer.method_args.combiner}", "trainer.method_args.combiner=sum,sago",
        f"hydra/launcher={launcher}", *WORKERS[launcher], sweep=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert all((tmp_path / name / "model.safetensors").is_file() for name in ("sum", "sago"))


DRIVER = """
import sys
import hydra
sys.path.append("{home}/src")
@hydra.main(version_base=None, config_path="{home}/configs", config_name="unlearn.yaml")
def main(config):
    from trainer import load_trainer
    from data import get_data, get_collators
    from model import get_model
    model, tokenizer = get_model(config.model)
    sets = get_data(config.data, mode=config.mode, tokenizer=tokenizer, template_args=config.model.template_args)
    collator = get_collators(config.collator, tokenizer=tokenizer)
    trainer, args = load_trainer(config.trainer, model=model, train_dataset=sets["train"], eval_dataset="dummy",
                                 tokenizer=tokenizer, data_collator=collator, template_args=None)
    trainer.train()
    trainer.save_model(args.output_dir)
main()
"""


def test_a_driver_that_imports_the_framework_after_hydra_has_started(framework, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER.format(home=framework.home))
    overrides = commands.overrides("RetainFirstNPO", framework.workspace, tmp_path / "out", framework.transformers)
    done = framework.call(str(tmp_path / "driver.py"), *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model.safetensors").is_file()


OPTIONS = {
    "pcgrad": ["trainer.method_args.combiner_options={round_toward_retain: true, scope: block}"],
    "gru": ["+trainer.method_args.combiner_options.average=0.9"],
    "in_a_package": ["trainer.method_args.combiner_options={share: 0.25}"],
}


@pytest.mark.parametrize("combiner", [*OPTIONS, "in_a_file", "torchjd:UPGrad"])
def test_combiners_and_their_options(framework, combiner, tmp_path):
    """Built-in ones, a stranger's from a package and from a file, and one of another library."""
    if combiner == "torchjd:UPGrad" and framework.call("-c", "import torchjd, quadprog").returncode:
        pytest.skip("the framework's environment has no torchjd")
    name = strangers.write_file(tmp_path, combiner) if combiner == "in_a_file" else combiner
    more = [f"trainer.method_args.combiner={name}", *OPTIONS.get(combiner, [])]
    done = framework.train("RetainFirstNPO", tmp_path / "out", *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(logs(tmp_path / "out")) == 2


def test_ways_to_save_memory_end_at_the_same_model(framework, tmp_path):
    ways = {
        "plain": (),
        "stream": ("+trainer.method_args.stream=true",),
        "both": ("+trainer.method_args.stream=true", "+trainer.method_args.offload=cpu"),
    }
    for name, way in ways.items():
        done = framework.train("RetainFirstNPO", tmp_path / name, "trainer.args.gradient_accumulation_steps=1", *way)
        assert done.returncode == 0, done.stderr[-3000:]
    plain, *others = (load_file(tmp_path / name / "model.safetensors") for name in ways)
    assert all(plain[key].equal(one[key]) for one in others for key in plain)


def test_our_handler_in_the_frameworks_own_config(framework, tmp_path):
    more = ("trainer.handler=RetainFirstNPO", "+trainer.method_args.combiner=pcgrad")
    done = framework.train("NPO", tmp_path, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(logs(tmp_path)) == 2


def test_logs_go_to_the_reporter(framework, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = framework.train("RetainFirstSimNPO", tmp_path, "trainer.args.report_to=tensorboard")
    assert done.returncode == 0, done.stderr[-3000:]
    events = next(tmp_path.rglob("events.out.tfevents.*"))
    board = EventAccumulator(str(events.parent))
    board.Reload()
    assert {"train/forget_loss", "train/retain_loss", "train/cos_update_retain", "train/norm_update"} <= set(
        board.Tags()["scalars"]
    )
    assert [event.step for event in board.Scalars("train/retain_loss")] == [1, 2]


def test_evaluation_during_training_and_checkpoints(framework, tmp_path):
    write_by_subject(tmp_path / "rwku")
    more = (
        "trainer.args.do_eval=true", "trainer.args.eval_on_start=true", "trainer.args.eval_strategy=epoch",
        "++trainer.args.max_steps=-1", "trainer.args.num_train_epochs=2", "trainer.args.save_strategy=epoch",
        "eval=retainfirst_rwku", "~eval.tofu", f"eval.rwku.path={tmp_path}/rwku",
        "++trainer.args.metric_for_best_model=forget_rouge", "++trainer.args.greater_is_better=false",
    )  # fmt: skip
    done = framework.train("RetainFirstGradDiff", tmp_path / "out", *more)
    assert done.returncode == 0, done.stderr[-3000:]
    for step in (0, 3, 6):
        assert (tmp_path / "out" / f"checkpoint-{step}" / "evals" / "RWKU_SUMMARY.json").is_file()
    for step in (3, 6):
        assert (tmp_path / "out" / f"checkpoint-{step}" / "model.safetensors").is_file()
    assert len(logs(tmp_path / "out")) == 6
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).parent == tmp_path / "out"
    done = framework.train("GradDiff", tmp_path / "own", *more)
    assert done.returncode == 0, done.stderr[-3000:]


def test_evaluation_of_two_models_with_one_task_name(framework, tmp_path):
    """By the framework's own command on a CPU; the second model's answers are not those of the first."""
    write_by_subject(tmp_path / "rwku")
    other = tmp_path / "other"
    shutil.copytree(framework.workspace / "model", other)
    weights = load_file(other / "model.safetensors")
    save_file({name: -one for name, one in weights.items()}, other / "model.safetensors", {"format": "pt"})
    found = []
    for model in (framework.workspace / "model", other, other):
        done = framework.call(
            "src/eval.py", "--config-name=eval.yaml", "eval=retainfirst_rwku", "task_name=same",
            "model.model_args.device_map=cpu", f"eval.rwku.path={tmp_path}/rwku",
            f"paths.output_dir={tmp_path}/out", "eval.rwku.batch_size=2",
            f"model.model_args.pretrained_model_name_or_path={model}", "model.model_args.attn_implementation=sdpa",
            f"model.tokenizer_args.pretrained_model_name_or_path={model}", "model.model_args.torch_dtype=float32",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        logs_of = json.loads((tmp_path / "out" / "RWKU_EVAL.json").read_text())
        found.append([row["generation"] for row in logs_of["forget_level2_rouge"]["value_by_index"].values()])
    assert found[0] != found[1] == found[2]
    assert "already, of the same model" in done.stdout + done.stderr


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    # On CPUs accelerate itself starts several processes by MPI only.
    "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1",
                   "--mixed_precision=no", "--dynamo_backend=no"],
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers(framework, launcher, tmp_path):
    more = ("trainer.method_args.combiner=pcgrad", "trainer.args.ddp_find_unused_parameters=false")
    done = framework.train("RetainFirstNPO", tmp_path, *more, launch=LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["max_steps"] == 2
    # Two steps of at most two micro-batches of four rows; each of two processes has 12 of the 24.
    assert (state["epoch"] >= 1) == (launcher == "torchrun")
    assert all(math.isfinite(log[key]) for log in logs(tmp_path) for key in LOGGED)
    assert len(logs(tmp_path)) == 2


@pytest.mark.parametrize("method", ["NPO", "DPO"])
def test_deepspeed_as_the_framework_configures_it(framework, method, tmp_path):
    """ZeRO-3 and bfloat16, over two processes. (RMU needs a newer torch than the framework pins for bfloat16 on a CPU.)"""
    for program in ("numactl", "ninja"):
        if not shutil.which(program, path=framework.programs):
            pytest.skip(f"DeepSpeed needs {program} on a CPU")
    # Without a GPU, older accelerate takes DeepSpeed only without use_cpu, and newer only with it.
    more = (
        "++trainer.args.deepspeed=configs/accelerate/zero_stage3_offload_config.json", "trainer.args.bf16=true",
        f"++trainer.args.use_cpu={str(int(framework.accelerate.split('.')[0]) >= 1).lower()}",
        "trainer.args.ddp_find_unused_parameters=false", "trainer.method_args.combiner=pcgrad",
    )  # fmt: skip
    done = framework.train(f"RetainFirst{method}", tmp_path, *more, launch=LAUNCHERS["torchrun"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(logs(tmp_path)) == 2
    assert all(math.isfinite(log["norm_update"]) for log in logs(tmp_path))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["trainer.method_args.combiner=sagoo"], "trainer.method_args.combiner: Unknown combiner 'sagoo'"),
        (["trainer.method_args.combiner=pcgrad", "trainer.method_args.scope=layer"], "trainer.method_args.scope: "),
        (["+trainer.method_args.combiner_options.sharp=1"], "combiner_options: sago has no option 'sharp'"),
        (["+trainer.method_args.combiner_options.alpha=1"], "set alpha by trainer.method_args.alpha"),
        (["+trainer.method_args.betta=1"], "RetainFirstNPO has no option trainer.method_args.betta"),
        (["trainer.args.optim=adalomo"], "updates parameters inside the backward pass"),
        (["trainer.handler=RetainFirstNPOO"], "open-unlearning has no trainer 'NPOO'"),
    ],
)
def test_bad_input_is_refused_before_the_first_step(framework, more, says, tmp_path):
    done = framework.train("RetainFirstNPO", tmp_path, *more)
    assert done.returncode != 0
    assert says in done.stderr + done.stdout
    assert not (tmp_path / "trainer_state.json").exists()


def test_the_checkout_is_left_as_it_was(framework):
    """The last test of the file: no test before it may have written into the framework's folder."""
    if not (framework.home / ".git").exists():
        pytest.skip(f"{framework.home} is not a git checkout, so edits to it cannot be seen")
    status = subprocess.run(["git", "-C", str(framework.home), "status", "--porcelain"], capture_output=True, text=True)
    assert status.stdout == ""


OWN_RETAIN = """
from trainer.unlearn.base import UnlearnTrainer


class OwnRetain(UnlearnTrainer):
    def __init__(self, strength=1.0, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.strength = strength

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        keys = ("input_ids", "attention_mask", "labels")
        forget, retain = (model(**{key: inputs[task][key] for key in keys}) for task in ("forget", "retain"))
        loss = retain.loss - self.strength * forget.loss
        return (loss, forget) if return_outputs else loss


class OwnStep(OwnRetain):
    def training_step(self, *arguments, **options):
        return super().training_step(*arguments, **options)
"""


@pytest.fixture
def fork_with_trainers(framework, tmp_path):
    """The framework as a user's fork has it: with a trainer more, registered as its documentation says."""
    home = tmp_path / "fork"
    shutil.copytree(framework.home, home, ignore=shutil.ignore_patterns(".git", "saves"))
    (home / "src/trainer/unlearn/own_retain.py").write_text(OWN_RETAIN)
    with (home / "src/trainer/__init__.py").open("a") as file:
        file.write("\nfrom trainer.unlearn.own_retain import OwnRetain, OwnStep\n_register_trainer(OwnRetain)\n")
        file.write("_register_trainer(OwnStep)\n")
    for name in ("OwnRetain", "OwnStep"):
        text = f"defaults:\n  - finetune\n\nhandler: {name}\nmethod_args:\n  strength: 0.5\n"
        (home / f"configs/trainer/{name}.yaml").write_text(text)
    return dataclasses.replace(framework, home=home)


def test_a_forks_trainer_that_computes_its_retain_loss_itself(fork_with_trainers, tmp_path):
    more = ("trainer.args.gradient_accumulation_steps=1",)
    runs = {"own": ("OwnRetain", ()), "sum": ("RetainFirstOwnRetain", ("trainer.method_args.combiner=sum",))}
    for name, (trainer, options) in (runs | {"sago": ("RetainFirstOwnRetain", ())}).items():
        done = fork_with_trainers.train(trainer, tmp_path / name, *more, *options)
        assert done.returncode == 0, done.stderr[-3000:]
    own, plain, sago = (load_file(tmp_path / name / "model.safetensors") for name in ("own", "sum", "sago"))
    assert all(own[key].equal(plain[key]) for key in own)
    assert any(not own[key].equal(sago[key]) for key in own)


def test_a_forks_trainer_with_a_training_step_of_its_own(fork_with_trainers, tmp_path):
    done = fork_with_trainers.train("RetainFirstOwnStep", tmp_path / "out")
    assert done.returncode
    assert "OwnStep has a training_step of its own (OwnStep.training_step)" in done.stdout + done.stderr
