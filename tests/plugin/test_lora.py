"""The model entry RetainFirstLoRA and trainers with adapters, on the stand-in: reference, saving, resuming, refusals."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from types import ModuleType

import peft
import pytest
import torch
import transformers
from omegaconf import OmegaConf

import framework_stand_in as framework
import tiny
from retainfirst.data import PairedCollator
from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst_open_unlearning import lora
from retainfirst_open_unlearning.adapters import AdaptersOff
from retainfirst_open_unlearning.lora import RetainFirstLoRA
from retainfirst_open_unlearning.register import extend
from retainfirst_open_unlearning.trainers import make_trainer
from tiny_trainer import make_pairs

ADAPTERS_ONLY = {"trainable_params_regex": [".*lora_.*"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tiny model."""
    return str(tiny.save_tiny(tmp_path_factory.mktemp("base")))


def load(saved, **options):
    torch.manual_seed(0)
    return RetainFirstLoRA.from_pretrained(pretrained_model_name_or_path=saved, **options)


def make(name, folder, model, training=None, **options):
    torch.manual_seed(0)
    kind = make_trainer(f"RetainFirst{name}", {name: vars(framework)[name]})
    return kind(
        model=model, train_dataset=make_pairs(8), data_collator=PairedCollator(0),
        args=framework.arguments(folder, **(training or {})), evaluators=None, template_args=None, **options,
    )  # fmt: skip


def logits(model):
    batch = tiny.tiny_batch()
    with torch.no_grad():
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def packed(model):
    """The weights in 4 bit, two in a byte."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.dtype == torch.uint8}


def test_the_frameworks_registry_has_the_entry(saved):
    module = ModuleType("model")
    module.MODEL_REGISTRY = {"AutoModelForCausalLM": transformers.AutoModelForCausalLM}
    extend(module)
    assert module.MODEL_REGISTRY["RetainFirstLoRA"] is RetainFirstLoRA
    with pytest.raises(
        RetainFirstError, match=r"model_handler: there is no 'RetainFirstLora'. Did you mean 'RetainFir"
    ):
        module.MODEL_REGISTRY["RetainFirstLora"]


def test_the_base_is_frozen_and_the_options_arrive(saved):
    model = load(saved, lora_rank=3, lora_dropout=0.1, lora_targets=OmegaConf.create(["q_proj", "down_proj"]))
    names = list(trained(model))
    assert len(names) == 8  # two layers, two targets, two matrices
    assert all(".lora_" in name and ("q_proj" in name or "down_proj" in name) for name in names)
    settings = model.peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (3, 6, 0.1)
    every = load(saved, lora_alpha=5)
    assert len(trained(every)) == 2 * 7 * 2
    assert every.peft_config["default"].lora_alpha == 5
    assert torch.equal(logits(every), logits(tiny.tiny_llama()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lora_rank": 0}, "model_args.lora_rank must be a whole number above 0, not 0"),
        ({"lora_rank": True}, "model_args.lora_rank must be a whole number above 0, not True"),
        ({"lora_alpha": 0}, "model_args.lora_alpha must be a number above 0, not 0"),
        ({"lora_dropout": 1}, "model_args.lora_dropout must be a number from 0 to below 1, not 1"),
        ({"lora_save": "whole"}, "model_args.lora_save must be adapter or merged, not 'whole'"),
        ({"quantize": 8}, "model_args.quantize must be 4 or null, not 8"),
        ({"quantize": 4, "lora_save": "merged"}, "lora_save=merged needs the base's own weights"),
        ({"lora_targets": ["nothing"]}, r"model_args.lora_targets=\['nothing'\]: Target modules"),
        ({"lora_targets": ["embed_tokens"], "lora_save": "merged"}, "has the embedding model.embed_tokens"),
    ],
)
def test_bad_options_are_refused_by_name(saved, options, text):
    with pytest.raises(RetainFirstError, match=text):
        load(saved, **options)


def test_an_adapter_is_no_base(saved, tmp_path):
    load(saved).save_pretrained(tmp_path)
    with pytest.raises(RetainFirstError, match="holds an adapter.*To evaluate it, leave out model.model_handler"):
        load(str(tmp_path))


def test_a_missing_or_unsuitable_library_names_what_to_install(saved, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "bitsandbytes" else find(name))
    with pytest.raises(MissingDependency, match="quantize=4 needs bitsandbytes.*pip install bitsandbytes"):
        load(saved, quantize=4)

    def broken(*_):
        raise ImportError("cannot import name 'HybridCache' from 'transformers'")

    monkeypatch.setattr(lora, "require", broken)
    with pytest.raises(
        RetainFirstError, match=r"peft [\d.]+ does not work with transformers .*HybridCache.*pip install"
    ):
        load(saved)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependency, match="RetainFirstLoRA needs peft, which is not installed: pip install"):
        load(saved)


def test_a_base_in_4_bit_trains(saved, tmp_path):
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available() and transformers.__version__.startswith("4.45"):
        pytest.skip("this transformers quantises on a GPU only")
    trainer = make("Referenced", tmp_path, load(saved, quantize=4))
    before, codes, base = trained(trainer.model), packed(trainer.model), logits(trainer.model)
    trainer.train()
    assert isinstance(trainer.ref_model, AdaptersOff)
    assert any(not torch.equal(one, before[name]) for name, one in trained(trainer.model).items())
    assert len(codes) == 2 * 7, "the linear layers of two blocks"
    assert all(torch.equal(one, codes[name]) for name, one in packed(trainer.model).items())
    # The reference is the 4-bit base, not the base that was rounded; the trained model is another one.
    assert torch.equal(logits(trainer.ref_model), base)
    assert not torch.equal(base, logits(tiny.tiny_llama()))
    assert not torch.equal(logits(trainer.model), base)
    trainer.save_model(str(tmp_path / "out"))
    assert not (tmp_path / "out" / "model.safetensors").exists()
    again = peft.PeftModel.from_pretrained(load(saved, quantize=4).unload(), str(tmp_path / "out"))
    assert torch.equal(logits(again), logits(trainer.model))


def test_the_reference_is_the_model_without_adapters(saved, tmp_path):
    model = load(saved)
    trainer = make("Referenced", tmp_path, model)
    trainer.train()
    assert isinstance(trainer.ref_model, AdaptersOff)
    model.train()
    batch = tiny.tiny_batch()
    reference = trainer.ref_model.eval()(**batch)
    assert model.training
    assert not reference.logits.requires_grad
    own = tiny.tiny_llama()(**batch)
    assert float((reference.logits - own.logits.detach()).abs().max()) == 0.0
    assert not torch.equal(logits(model), own.logits)
    assert dict(trainer.ref_model.named_modules()).keys() == dict(model.named_modules()).keys()


def test_training_is_that_with_a_copied_reference(saved, tmp_path, monkeypatch):
    ends = []
    for copied in (False, True):
        if copied:
            monkeypatch.setattr("retainfirst_open_unlearning.adapters._adds_nothing", lambda model: False)
        trainer = make("Referenced", tmp_path, load(saved), beta=1.0)
        assert isinstance(trainer.ref_model, AdaptersOff) != copied
        trainer.train()
        ends.append(trained(trainer.model))
    assert all(torch.equal(one, ends[1][name]) for name, one in ends[0].items())


def test_a_model_that_is_not_its_base_is_copied(saved, tmp_path):
    """A whole model, an adapter that was trained before, and an adapter beside a trained base."""
    before = load(saved)
    with torch.no_grad():
        next(p for name, p in before.named_parameters() if "lora_B" in name).add_(1.0)
    beside = load(saved)
    next(beside.parameters()).requires_grad_(True)
    for model in (tiny.tiny_llama(), before):
        reference = make("Referenced", tmp_path, model).ref_model
        assert not isinstance(reference, AdaptersOff)
        assert torch.equal(logits(reference), logits(model))
    assert not isinstance(make("Referenced", tmp_path, beside).ref_model, AdaptersOff)


@pytest.mark.parametrize("how", ["entry", "by hand"])
def test_a_base_that_would_be_trained_but_not_saved_is_refused(saved, tmp_path, how):
    model = load(saved)
    if how == "by hand":
        model.save_pretrained(tmp_path / "adapter")
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(RetainFirstError, match=r"parameters of the base model, such as .*only the adapters are saved"):
        make("ByPattern", tmp_path, model).train()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    trainer = make("ByPattern", tmp_path, model, **ADAPTERS_ONLY)
    trainer.train()
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed
    assert all("lora_" in name for name in changed)
    assert all(p.grad is None and not p.requires_grad for name, p in model.named_parameters() if "lora_" not in name)


def test_a_whole_model_keeps_the_gradients_of_all_its_parameters(tmp_path):
    trainer = make("ByPattern", tmp_path, tiny.tiny_llama(), trainable_params_regex=[".*down_proj.*"])
    trainer.train()
    assert all(p.requires_grad for p in trainer.model.parameters())


@pytest.mark.parametrize("save", ["adapter", "merged"])
def test_the_frameworks_evaluators_load_what_is_saved(saved, tmp_path, save):
    trainer = make("GradDiff", tmp_path / "out", load(saved, lora_save=save), training={"learning_rate": 1.0})
    trainer.train()
    before = logits(trainer.model)
    trainer.save_model(str(tmp_path / "out"))
    assert torch.equal(logits(trainer.model), before)
    assert (tmp_path / "out" / "model.safetensors").is_file() == (save == "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert float((logits(again) - logits(tiny.tiny_llama())).abs().max()) > 0.1
    if save == "adapter":
        assert torch.equal(logits(again), before)
        return
    # Merging rounds each weight once, 2^-24 of it; the logits are sums of some hundred such terms of size up to 10.
    torch.testing.assert_close(logits(again), before, rtol=0, atol=1e-3)
    beside = peft.PeftModel.from_pretrained(tiny.tiny_llama(), str(tmp_path / "out" / "adapter"))
    assert torch.equal(logits(beside), before)


@pytest.mark.parametrize("kind", ["gpt2", "tied"])
def test_merging_other_layers(tmp_path, kind):
    """GPT-2 stores its weights transposed; a tied output layer shares the embedding's. A sharded model hands over its state."""
    if kind == "tied":
        base = tiny.tiny_llama(tied=True)
    else:
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=110, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=1
        )
        base = transformers.GPT2LMHeadModel(config)
    base.save_pretrained(tmp_path / "base")
    model = load(str(tmp_path / "base"), lora_save="merged")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b", state_dict={name: one.clone() for name, one in model.state_dict().items()})
    for name in "ab":
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
        torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-4)
    assert float((logits(model) - logits(base)).abs().max()) > 0.01


@pytest.mark.parametrize("save", ["adapter", "merged"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(saved, tmp_path, save, monkeypatch):
    if tuple(map(int, transformers.__version__.split(".")[:2])) < (
        4,
        49,
    ):  # its checkpoints predate torch's new default
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    training = {
        "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 0.01,
    }  # fmt: skip
    whole, again = (make("Referenced", tmp_path, load(saved, lora_save=save), training) for _ in range(2))
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert isinstance(again.ref_model, AdaptersOff)
    assert all(torch.equal(one, trained(whole.model)[name]) for name, one in trained(again.model).items())
    assert json.loads((tmp_path / "checkpoint-2" / "adapter_config.json").read_text())["peft_type"] == "LORA"


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_gradient_checkpointing_changes_nothing(saved, tmp_path, reentrant):
    ends = []
    for options in (
        {},
        {"gradient_checkpointing": True}
        | ({} if reentrant is None else {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}),
    ):
        trainer = make("Referenced", tmp_path, load(saved), options)
        trainer.train()
        ends.append(trained(trainer.model))
    start = trained(load(saved))
    assert any(not torch.equal(one, start[name]) for name, one in ends[0].items())
    assert all(torch.equal(one, ends[1][name]) for name, one in ends[0].items())


def test_a_copied_model_saves_as_its_original(saved, tmp_path):
    """As the framework's own trainers copy their reference."""
    copy.deepcopy(load(saved, lora_save="merged")).save_pretrained(tmp_path)
    assert torch.equal(logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path)), logits(tiny.tiny_llama()))
