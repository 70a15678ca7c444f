"""Each kind of trainer with each combiner, on a stand-in for the framework; names, configs, options and refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import transformers
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import framework_stand_in as framework
import retainfirst as rf
import strangers
import tiny
from retainfirst.combiners import combiner_options
from retainfirst.errors import RetainFirstError
from retainfirst.hf import split_trainer
from retainfirst_open_unlearning.register import PREFIX, register

SPLITTABLE = ("GradDiff", "Referenced", "Dual", "GradAscent", "Renamed", "Extended", "Helped", "Overridden", "ByRow")
FORGET_LOSS_ABOVE_0 = ("Referenced", "Extended", "Overridden", "ByRow")
COMBINERS = ("sum", "sago", "sago_keep_retain", "pcgrad", "blur")
CASES = [(name, combiner) for name in SPLITTABLE for combiner in COMBINERS]
CASES += [("GradDiff", combiner) for combiner in rf.available_combiners() if combiner not in COMBINERS]


class SearchPath(ConfigSearchPath):
    def __init__(self):
        self.added = []

    def append(self, provider, path, anchor=None):
        self.added.append((provider, path))

    def get_path(self):
        return []

    def prepend(self, provider, path, anchor=None):
        raise AssertionError("the framework's own configs come first")


@pytest.fixture
def registry(monkeypatch):
    module = framework.install(monkeypatch)
    path = SearchPath()
    register(module, path)
    assert path.added == [("retainfirst", "pkg://retainfirst_open_unlearning.conf")]
    return module.TRAINER_REGISTRY


class Pairs(torch.utils.data.Dataset):
    def __init__(self, forget=True, retain=True):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, 20, (2, 8, 6), generator=generator)
        row = lambda x: {"input_ids": x, "attention_mask": torch.ones_like(x), "labels": x}  # noqa: E731
        self.forget = [row(x) for x in ids[0]] if forget else None
        self.retain = [row(x) for x in ids[1]] if retain else None

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {task: rows[i] for task, rows in (("forget", self.forget), ("retain", self.retain)) if rows}


def collate(rows):
    return {task: {key: torch.stack([row[task][key] for row in rows]) for key in rows[0][task]} for task in rows[0]}


def make(registry, name, folder, data=None, model=None, training=None, **options):
    torch.manual_seed(0)
    return registry.get(name)(
        model=model or tiny.tiny_llama().double(), train_dataset=data or Pairs(), data_collator=collate,
        args=framework.arguments(folder, **(training or {})), evaluators=None, template_args=None, **options,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "combiner"), CASES)
def test_every_trainer_with_every_combiner(registry, name, combiner, tmp_path):
    trainer = make(registry, PREFIX + name, tmp_path, combiner=combiner)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    logs = [log for log in trainer.state.log_history if "forget_loss" in log and "loss" in log]
    assert len(logs) == 2
    for log in logs:
        assert {*trainer.last_geometry.as_dict(), "retain_loss"} <= set(log)
        assert log["retain_loss"] > 0
        assert (log["forget_loss"] < 0) == (name not in FORGET_LOSS_ABOVE_0)
    assert trainer.combiner.name == combiner


@pytest.mark.parametrize("name", ["GradDiff", "Referenced"])
def test_the_two_gradients_are_those_of_the_whole_loss(registry, name, tmp_path):
    """Their weighted sum is the gradient of the trainer's own loss.

    Llama computes norms and the loss in float32 in any case: a few hundred roundings of 2^-24 of the largest element.
    """
    trainer = make(registry, PREFIX + name, tmp_path, alpha=0.3, gamma=2.0)
    model, batch = trainer.model.eval(), collate([Pairs()[i] for i in range(4)])
    parameters = list(model.parameters())
    whole = torch.autograd.grad(framework.__dict__[name].compute_loss(trainer, model, batch), parameters)
    forget, retain = (torch.autograd.grad(loss(model, batch), parameters) for loss in trainer.task_losses())
    assert trainer.gamma == 2.0
    for x, f, r in zip(whole, forget, retain, strict=True):
        torch.testing.assert_close(2.0 * f + 0.3 * r, x, rtol=0, atol=1e-5 * float(x.abs().max()))


@pytest.mark.parametrize("name", ["GradDiff", "Referenced", "Dual"])
def test_sum_trains_as_the_framework_does(registry, name, tmp_path, monkeypatch):
    """Two steps of SGD, clipped to 1, at learning rate 0.1; with the roundings of the test above."""
    own = framework.__dict__[name]
    # transformers from 4.46 on hands the loss an argument that the framework's main branch does not take, and scales by it.
    monkeypatch.setattr(own, "compute_loss", _tolerant(own.compute_loss))
    monkeypatch.setattr(framework.FinetuneTrainer, "model_accepts_loss_kwargs", False, raising=False)
    models = []
    for cls_name in (name, PREFIX + name):
        options = {"combiner": "sum"} if cls_name.startswith(PREFIX) else {}
        trainer = make(registry, cls_name, tmp_path, alpha=0.5, gamma=0.7, **options)
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
        models.append(trainer)
    for a, b in zip(models[0].model.parameters(), models[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2 * 0.1 * 1e-5)
    if name == "Dual":
        assert models[0].preferences == pytest.approx(models[1].preferences, rel=1e-5)
        assert models[0].preferences[1] != 0.5


def _tolerant(compute_loss):
    def compute(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return compute_loss(self, model, inputs)

    compute.__wrapped__ = compute_loss
    return compute


def test_alpha_of_zero_is_replaced_by_the_smallest_weight(registry, tmp_path):
    trainer = make(registry, "RetainFirstGradDiff", tmp_path, combiner="sum", alpha=0.0)
    assert trainer.alpha == 0
    assert 0 < trainer.combiner.alpha < 1e-20
    scheduled = make(registry, "RetainFirstGradDiff", tmp_path, combiner="sum", alpha="1:0:2")
    assert scheduled.combiner.alpha == 1


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        (
            "RetainFirstGradDiff",
            {"combiner": "sagoo"},
            "method_args.combiner: Unknown combiner 'sagoo'. Did you mean 'sago'",
        ),
        ("RetainFirstGradDiff", {"combiner": "pcgrad", "scope": "blok"}, "method_args.scope: Unknown scope 'blok'"),
        ("RetainFirstReferenced", {"betta": 1.0}, "no option trainer.method_args.betta. Did you mean 'beta'"),
        ("RetainFirstGradDiff", {"data": Pairs(retain=False)}, "no 'retain' part"),
        ("RetainFirstGradDiff", {"data": Pairs().forget}, "no 'forget' part"),
        ("RetainFirstGradDiff", {"training": {"optim": "lomo"}}, "lomo"),
        (
            "RetainFirstGradDiff",
            {
                "training": {
                    "optim": "galore_adamw_layerwise",
                    "gradient_accumulation_steps": 1,
                    "optim_target_modules": ["mlp"],
                }
            },
            "layerwise",
        ),
        ("RetainFirstGradDiff", {"alpha": -1.0}, "alpha must be a finite number above 0, not -1.0"),
        (
            "RetainFirstGradDiff",
            {"gamma": "1:-1:10"},
            r"trainer\.method_args\.gamma: .*gamma must be a finite number at least 0, not -1\.0, as Linear",
        ),
        (
            "RetainFirstGradDiff",
            {"alpha": "1:-1:10"},
            r"trainer\.method_args\.alpha: .*alpha must be a finite number above 0",
        ),
        ("RetainFirstGradDiff", {"alpha": "0.5"}, "trainer.method_args.alpha: '0.5' is not a number"),
        ("RetainFirstGradDiff", {"gamma": None}, "trainer.method_args.gamma: None is not a number"),
        ("RetainFirstGradDiff", {"combiner_options": {"alpha": 3.0}}, "set alpha by trainer.method_args.alpha"),
        ("RetainFirstGradDiff", {"combiner_options": {"gamma": 3.0}}, "set gamma by trainer.method_args.gamma"),
        (
            "RetainFirstGradDiff",
            {"combiner": "pcgrad", "combiner_options": {"round_to_retain": True}},
            "method_args.combiner_options: pcgrad has no option 'round_to_retain'. Did you mean 'round_toward_retain'",
        ),
        ("RetainFirstGradDiff", {"combiner_options": "average"}, "combiner_options: 'average' is not a mapping"),
        (
            "RetainFirstGradDiff",
            {"combiner": "pcgrad", "scope": "block", "combiner_options": {"scope": "global"}},
            "method_args.scope is 'block', but trainer.method_args.combiner_options.scope is 'global'",
        ),
        ("RetainFirstGradDiff", {"combiner": "torchjd"}, "method_args.combiner: torchjd: aggregator is missing"),
        (
            "RetainFirstGradDiff",
            {"combiner": "torchjd:UPGradd"},
            "method_args.combiner: .*UPGradd.*Did you mean 'UPGrad'",
        ),
        ("RetainFirstGradDiff", {"combiner": "nowhere.py:mine"}, "method_args.combiner: .*nowhere.py does not exist"),
        ("RetainFirstNPO", {}, "open-unlearning has no trainer 'NPO'"),
        ("RetainFirstFinetuneTrainer", {}, "RetainFirstFinetuneTrainer: .*not an unlearning trainer"),
        ("RetainFirstLogger", {}, "Logger has a training_step of its own .Logger.training_step."),
        ("RetainFirstDualOfThree", {}, "RetainFirstDualOfThree: the trainer weighs 3 losses by its preferences"),
        ("RetainFirstLoggerByInstance", {}, "RetainFirstLoggerByInstance: .*training_step of its own"),
    ],
)
def test_refusals_at_construction(registry, name, options, text, tmp_path):
    with pytest.raises(RetainFirstError, match=text):
        make(registry, name, tmp_path, **options)


FIRST_BATCH = {name: reason for name, (reason, _) in framework.ODD.items()} | {
    "OwnRetainPulled": "otherwise than through the model's outputs",
    "Finetune": "not an unlearning trainer",
    "PulledAround": "a third part",
    "PulledDual": "a third part",
    "ThreeDual": "no third",
}


@pytest.mark.parametrize("name", FIRST_BATCH)
def test_refusals_at_the_first_batch(registry, name, tmp_path):
    trainer = make(registry, PREFIX + name, tmp_path)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(RetainFirstError, match=f"{PREFIX}{name}: (the|its) loss cannot be split.*{FIRST_BATCH[name]}"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert (trainer.gamma, trainer.alpha) == (1.0, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


@pytest.mark.parametrize("name", framework.ODD_LATER)
def test_refusals_of_a_loss_that_changes_its_form(registry, name, tmp_path):
    trainer = make(registry, PREFIX + name, tmp_path)
    reason = framework.ODD_LATER[name][0]
    with pytest.raises(RetainFirstError, match=f"{PREFIX}{name}: the loss cannot be split.*{reason}"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_an_option_that_a_constructor_takes_from_its_keyword_arguments(registry, tmp_path):
    assert make(registry, "RetainFirstHelped", tmp_path, sharpness=2.0).sharpness == 2.0


@pytest.mark.parametrize("options", [{"round_toward_retain": True}, OmegaConf.create({"round_toward_retain": True})])
def test_options_of_a_combiner(registry, options, tmp_path):
    trainer = make(
        registry, "RetainFirstGradDiff", tmp_path, combiner="pcgrad", alpha=0.5, scope="block", combiner_options=options
    )
    assert trainer.combiner == rf.PCGrad(alpha=0.5, scope="block", round_toward_retain=True)
    trainer.train()
    assert trainer._two_task_step.combiner is trainer.combiner


def test_every_option_of_every_combiner_can_be_given(registry, tmp_path):
    for name in rf.available_combiners():
        known = combiner_options(name)
        options = {key: one.default for key, one in known.items() if key not in ("alpha", "gamma")}
        trainer = make(registry, "RetainFirstGradDiff", tmp_path, combiner=name, combiner_options=options)
        assert trainer.combiner == rf.make_combiner(name)


def test_a_combiner_of_torchjd(registry, tmp_path):
    trainer = make(registry, "RetainFirstGradDiff", tmp_path, combiner="torchjd:UPGrad", scope="tensor")
    trainer.train()
    assert (trainer.combiner.name, trainer.combiner.scope) == ("torchjd", "tensor")
    assert type(trainer.combiner.aggregator).__name__ == "UPGrad"


def test_a_combiner_in_a_file(registry, tmp_path):
    name = strangers.write_file(tmp_path, "in_a_file")
    trainer = make(registry, "RetainFirstGradDiff", tmp_path, combiner=name, combiner_options={"share": 0.25})
    trainer.train()
    assert (trainer.combiner.name, trainer.combiner.share) == ("in_a_file", 0.25)


@pytest.mark.slow
def test_a_combiner_of_an_installed_package(tmp_path):
    """In a process of its own: entry points are read once."""
    strangers.write_package(tmp_path, "in_a_package")
    code = (
        "from retainfirst_open_unlearning.trainers import _make_combiner as make\n"
        "print(make('in_a_package', {'share': 0.25}, None))\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "Mine(alpha=1.0, gamma=1.0, share=0.25)" in found.stdout, found.stderr


def test_changed_weights_are_used_from_the_next_step_on(registry, tmp_path):
    trainer = make(registry, "RetainFirstGradDiff", tmp_path, combiner="pcgrad", scope="block")

    class Stronger(transformers.TrainerCallback):
        def on_step_end(self, *_, **__):
            trainer.gamma = 3.0

    trainer.add_callback(Stronger())
    trainer.train()
    assert trainer.combiner == rf.PCGrad(alpha=1.0, gamma=3.0, scope="block")
    assert trainer._two_task_step.combiner is trainer.combiner


def test_a_weight_that_moves_linearly(registry, tmp_path):
    trainer = make(registry, "RetainFirstGradDiff", tmp_path, training={"max_steps": 4}, gamma="1:0:2", combiner="sago")
    seen = []
    compute = trainer.forget_loss

    def spy(*arguments):
        seen.append((trainer.gamma, trainer.combiner.gamma))
        return compute(*arguments)

    trainer.forget_loss = spy
    trainer.train()
    assert list(dict.fromkeys(seen)) == [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)]
    with pytest.raises(RetainFirstError, match=r"trainer\.method_args\.gamma: '1:0' is no weight"):
        make(registry, "RetainFirstGradDiff", tmp_path, gamma="1:0")


@pytest.mark.parametrize("metric", ["rouge", "eval_rouge"])
def test_the_best_model_by_a_result_of_the_frameworks_evaluators(registry, metric, tmp_path, monkeypatch):
    """They return plain names, and transformers looks for ``eval_<name>``."""
    monkeypatch.setattr(framework.FinetuneTrainer, "evaluate", lambda self, *_, **__: {"rouge": self.state.global_step})
    saving = {
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_only_model": True,
    }
    training = {**saving, "metric_for_best_model": metric, "greater_is_better": False}
    trainer = make(
        registry, "RetainFirstGradDiff", tmp_path, training=training, eval_dataset="dummy"
    )  # as in the framework
    trainer.evaluators = {"rouge": None}
    trainer.train()
    assert trainer.state.best_metric == 1
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")


def test_where_is_passed_to_the_step(registry, tmp_path):
    trainer = make(registry, "RetainFirstGradDiff", tmp_path, training={"max_steps": 1}, where="there is no such name")
    with pytest.raises(RetainFirstError, match="where selects none"):
        trainer.train()


@pytest.mark.parametrize("guard", ["measure", "enforce", False])
def test_the_guard_of_the_optimiser(registry, tmp_path, guard):
    trainer = make(
        registry, "RetainFirstGradDiff", tmp_path, combiner="sum", guard=guard, training={"optim": "adamw_torch"}
    )
    trainer.train()
    shares = [log["step_opposes_retain"] for log in trainer.state.log_history if "step_opposes_retain" in log]
    assert bool(shares) == bool(guard)
    assert guard != "enforce" or set(shares) == {0.0}


@pytest.mark.parametrize("name", SPLITTABLE)
def test_several_gpus_in_one_process(registry, name, tmp_path, monkeypatch, caplog):
    """Rows have equal lengths, so that the mean over two devices is that over all rows."""
    one = make(registry, PREFIX + name, tmp_path / "one", training={"per_device_train_batch_size": 4})
    one.train()
    monkeypatch.setattr(torch.nn, "DataParallel", framework.TwoDevices)
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", 2)
    with caplog.at_level("INFO"):
        two = make(registry, PREFIX + name, tmp_path / "two")
    assert "a step takes 8 pairs: 2 a device, 2 devices, 2 microbatches. One process with 2 GPUs" in caplog.text
    two.train()
    assert isinstance(two.model_wrapped, framework.TwoDevices)
    if issubclass(framework.__dict__[name], framework.Referenced):
        return  # this stand-in's loss is a function of the mean over the rows of a device
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2 * 0.1 * 1e-5)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        pairs = Pairs()
        return (pairs[i] for i in range(len(pairs)))


def test_a_stream_of_pairs(registry, tmp_path):
    trainer = make(registry, "RetainFirstGradDiff", tmp_path, data=Stream())
    trainer.train()
    assert trainer.state.global_step == 2


def test_parameters_outside_the_optimizer_take_no_part_in_groups(registry, tmp_path, monkeypatch):
    """RMU makes its optimizer with a few parameters, and then gives all of them gradients."""

    def of_a_few(trainer):
        few = [p for name, p in trainer.model.named_parameters() if "down_proj" in name]
        trainer.optimizer = torch.optim.SGD(few, lr=0.1)

    monkeypatch.setattr(framework.GradDiff, "create_optimizer", of_a_few)
    found = {}
    for scope in ("global", "tensor"):
        trainer = make(registry, "RetainFirstGradDiff", tmp_path, combiner="pcgrad", scope=scope)
        clipped = []
        clip = trainer.accelerator.clip_grad_norm_
        trainer.accelerator.clip_grad_norm_ = lambda p, *a, clip=clip, seen=clipped: (
            seen.append([q.grad for q in p]) or clip(p, *a)
        )
        trainer.train()
        found[scope] = trainer.last_geometry, sum(g is not None for g in clipped[0])
    assert set(found["tensor"][0].per_group()) == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    assert found["global"][0].as_dict().keys() == found["tensor"][0].as_dict().keys()
    assert found["global"][1] == len(list(trainer.model.parameters()))


def test_a_scope_for_an_element_wise_combiner_is_logged_and_ignored(registry, tmp_path, caplog):
    with caplog.at_level("INFO"):
        trainer = make(registry, "RetainFirstGradDiff", tmp_path, combiner="sago", scope="global")
    assert "has no effect" in caplog.text
    assert trainer.combiner == rf.SAGO()
    assert make(registry, "RetainFirstGradDiff", tmp_path, combiner="pcgrad", scope="block").combiner.scope == "block"


def test_other_names_are_looked_up_as_before(registry):
    assert registry.get("GradDiff") is framework.GradDiff
    assert registry.get("Nothing") is None
    assert registry.get("RetainFirstGradDiff") is registry["RetainFirstGradDiff"]
    with pytest.raises(KeyError):
        registry["Nothing"]


def test_registering_again_changes_nothing(registry):
    made = registry["RetainFirstGradDiff"]
    module = sys.modules["trainer"]
    register(module, SearchPath())
    assert module.TRAINER_REGISTRY is registry
    assert registry["RetainFirstGradDiff"] is made
    assert not any(key.startswith(PREFIX * 2) for key in ConfigStore.instance().repo["trainer"])


def test_configs_have_the_frameworks_defaults(registry, tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "GradDiff.yaml").write_text(
        "handler: GradDiff\nmethod_args:\n  gamma: 0.25\n  alpha: 2.0\n"
    )
    (tmp_path / "config.yaml").write_text("defaults:\n  - trainer: null\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base=None):
        found = compose("config", ["trainer=RetainFirstGradDiff", "trainer.method_args.combiner=pcgrad"])
    assert found.trainer.handler == "RetainFirstGradDiff"
    assert dict(found.trainer.method_args) == {"gamma": 0.25, "alpha": 2.0, "combiner": "pcgrad", "combiner_options": None,
                                               "scope": None}  # fmt: skip
    names = {key.removesuffix(".yaml") for key in ConfigStore.instance().repo["trainer"]}
    assert {PREFIX + name for name in SPLITTABLE} <= names
    assert "RetainFirstFinetuneTrainer" not in names


def test_other_programs_that_use_hydra_load_nothing_of_ours(tmp_path):
    code = (
        "import sys, types; from hydra import initialize_config_dir, compose\n"
        "sys.modules['trainer'] = types.ModuleType('trainer')\n"
        "sys.modules['trainer'].TRAINER_REGISTRY = {'mine': object}\n"
        f"with initialize_config_dir({str(tmp_path)!r}, version_base=None): compose('config')\n"
        "print(sorted(n for n in sys.modules if n.startswith(('retainfirst', 'torch', 'hydra_plugins.retainfirst'))))"
    )
    (tmp_path / "config.yaml").write_text("a: 1\n")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
                           env={"PYTHONPATH": ":".join(p for p in sys.path if p.endswith("plugin/src"))})  # fmt: skip
    assert found.stdout.strip() == "['hydra_plugins.retainfirst_open_unlearning']"


OWN_RETAIN = ("OwnRetain", "OwnRetainBeside", "OwnRetainIfGiven")


def parameters(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize("name", OWN_RETAIN)
@pytest.mark.parametrize("combiner", ["sum", "sago", "pcgrad"])
def test_a_trainer_that_computes_its_retain_loss_itself_is_split_at_the_models_outputs(
    registry, name, combiner, tmp_path
):
    weights = {"alpha": 0.5, "gamma": 2.0}
    ours = make(registry, PREFIX + name, tmp_path, combiner=combiner, **weights)
    ours.train()
    # GradDiff's own weights are in the loss; the others have none, and the combiner's multiply the two parts.
    own = name == "OwnRetainBeside"
    theirs = make(registry, name, tmp_path, **(weights if own else {}))
    split_trainer(theirs, combiner, **({} if own else weights))
    theirs.train()
    assert all(torch.equal(a, b) for a, b in zip(parameters(ours), parameters(theirs), strict=True))
    assert type(ours).__name__ == PREFIX + name
    logs = [one for one in ours.state.log_history if "loss" in one]
    assert len(logs) == 2
    assert all("cos_update_retain" in one and "retain_loss" not in one for one in logs)


@pytest.mark.parametrize("name", OWN_RETAIN)
def test_plain_addition_of_such_a_trainer_is_the_frameworks_own_run(registry, name, tmp_path):
    training = {"gradient_accumulation_steps": 1}
    ours = make(registry, PREFIX + name, tmp_path, combiner="sum", training=training)
    theirs = make(registry, name, tmp_path, training=training)
    for trainer in (ours, theirs):
        trainer.train()
    # The model is in float64 but for its norms and losses; both runs compute the same numbers and add two of them.
    assert all(torch.equal(a, b) for a, b in zip(parameters(ours), parameters(theirs), strict=True))


def test_such_a_trainer_can_be_evaluated_first(registry, tmp_path):
    trainer = make(registry, PREFIX + "OwnRetain", tmp_path, training={"prediction_loss_only": True})
    before = trainer.evaluate(Pairs())["eval_loss"]
    trainer.train()
    assert trainer.evaluate(Pairs())["eval_loss"] != before


def test_options_that_such_a_trainer_would_ignore(registry, tmp_path):
    trainer = make(registry, PREFIX + "OwnRetain", tmp_path, retain_loss_type="KL")
    with pytest.raises(RetainFirstError, match="retain_loss_type=KL has no effect: OwnRetain computes its retain loss"):
        trainer.train()


def test_weights_of_such_a_trainer_follow_their_schedule(registry, tmp_path):
    for name in ("OwnRetain", "OwnRetainBeside"):
        trainer = make(registry, PREFIX + name, tmp_path, gamma="2:1:2", training={"max_steps": 3})
        trainer.train()
        assert trainer.gamma == 1.0
        assert trainer.combiner.gamma == 1.0
