"""The reference runs as the model runs: the same precision, the same kernels, no dropout; and nothing of the model is changed."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
from torch import nn

import tiny
from retainfirst import objectives
from retainfirst.data import EncodedSet, PairedCollator, PairedDataset

transformers = pytest.importorskip("transformers")

START = 2 / 0.1 * math.log(2)  # NPO's loss where the model is its own reference
LENGTHS = (9, 40, 12, 100)


@pytest.fixture
def batch():
    return tiny.tiny_batch(LENGTHS)


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch):
    """accelerate keeps the precision of the first accelerator of a process, and transformers puts it into the environment."""
    from accelerate.state import AcceleratorState, GradientState

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def frozen(model):
    return copy.deepcopy(model).eval().requires_grad_(False)


def gradient_norm(model) -> float:
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters() if p.grad is not None))


def own_losses(model, batch, reference) -> tuple[float, float, float]:
    """NPO's loss, KL's value and the norm of KL's gradient."""
    npo = objectives.npo(model, batch, reference=reference).item()
    model.zero_grad()
    kl = objectives.kl(model, batch, reference=reference)
    kl.backward()
    return npo, kl.item(), gradient_norm(model)


# KL's gradient at the reference is p - p sum(p), where the sum is 1 up to rounding: 1e-7 of a gradient of norm 1.
ZERO = pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_that_accelerate_has_prepared(batch, precision, attention):
    """Accelerate puts the autocast into the model's forward, where the reference does not see it."""
    from accelerate import Accelerator

    model = tiny.tiny_llama()
    model.config._attn_implementation = attention
    reference = frozen(model)
    accelerator = Accelerator(mixed_precision=precision, cpu=True)
    prepared = accelerator.prepare(model).train()
    assert own_losses(prepared, batch, reference) == (pytest.approx(START, abs=1e-5), 0.0, ZERO)
    wrapped = nn.DataParallel(prepared)  # on a CPU it only passes on
    assert own_losses(wrapped, batch, reference) == (pytest.approx(START, abs=1e-5), 0.0, ZERO)
    stored = {**batch, "reference_logps": objectives.reference_log_probs(prepared, [batch])}
    assert objectives.npo(prepared, stored).item() == pytest.approx(START, abs=1e-5)


def test_log_probs_of_a_model_that_is_not_prepared_yet_need_the_accelerators_autocast(batch):
    from accelerate import Accelerator

    model = tiny.tiny_llama()
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    with accelerator.autocast():
        log_probs = objectives.reference_log_probs(model, [batch])
    prepared = accelerator.prepare(model).train()
    assert torch.equal(objectives.sequence_log_probs(prepared, batch), log_probs)


def test_autocast_by_hand(batch):
    model = tiny.tiny_llama().train()
    with torch.autocast("cpu", torch.bfloat16):
        assert own_losses(model, batch, frozen(model)) == (pytest.approx(START, abs=1e-5), 0.0, ZERO)


@pytest.mark.parametrize("kind", ["LoraConfig", "PromptTuningConfig"])
def test_adapters_off_under_accelerate(batch, kind):
    peft = pytest.importorskip("peft")
    from accelerate import Accelerator

    base = tiny.tiny_llama()
    plain = frozen(base)
    options = {"r": 2} if kind == "LoraConfig" else {"num_virtual_tokens": 3}
    adapted = peft.get_peft_model(base, getattr(peft, kind)(task_type="CAUSAL_LM", **options))
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(adapted).train()
    reference = objectives.adapters_off(adapted)
    with torch.autocast("cpu", torch.bfloat16):
        expected = objectives.sequence_log_probs(plain, batch).detach()
    found = START if kind == "LoraConfig" else objectives.npo(prepared, {**batch, "reference_logps": expected}).item()
    assert objectives.npo(prepared, batch, reference=reference).item() == pytest.approx(found, abs=1e-5)
    # Adapters of prompt tuning change the model from the first step.
    kl = objectives.kl(prepared, batch, reference=reference)
    assert (kl.item() == 0.0) == (kind == "LoraConfig")


def test_a_reference_in_training_mode_has_no_dropout(batch):
    model = tiny.tiny_llama()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    reference = copy.deepcopy(model).train()
    modes = [module.training for module in reference.modules()]
    assert own_losses(model.eval(), batch, reference)[:2] == (pytest.approx(START, abs=1e-5), 0.0)
    assert [module.training for module in reference.modules()] == modes


def pairs():
    rows = tiny.tiny_batch(LENGTHS)
    rows = [{key: value[i, :n].tolist() for key, value in rows.items()} for i, n in enumerate(LENGTHS)]
    return PairedDataset(EncodedSet(rows, name="forget"), EncodedSet(rows, name="retain"))


def trained(model, data, tmp_path, **options):
    from retainfirst.hf import TwoTaskTrainer

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=1, learning_rate=0.0, bf16=True, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = TwoTaskTrainer(
        model=model, args=arguments, train_dataset=data, data_collator=PairedCollator(0), combiner="sum", **options
    )
    trainer.train()
    return trainer.state.log_history[0]


def test_the_trainers_first_step_in_bfloat16(tmp_path):
    model = tiny.tiny_llama()
    options = {"objective": "npo", "objective_options": {"reference": frozen(model)}}
    logs = trained(model, pairs(), tmp_path, retain_loss="kl", retain_options={"reference": frozen(model)}, **options)
    assert logs["forget_loss"] == pytest.approx(START, abs=1e-4)
    assert logs["retain_loss"] == 0.0
    assert logs["norm_retain"] == ZERO


def test_a_reference_that_is_loaded_otherwise_is_reported(batch, caplog):
    model = tiny.tiny_llama()
    with caplog.at_level(logging.WARNING, logger="retainfirst"):
        objectives.npo(model, batch, reference=frozen(model))
        assert not caplog.text
        objectives.npo(model, batch, reference=frozen(model).to(torch.bfloat16))
        eager = frozen(model)
        eager.config._attn_implementation = "eager"
        objectives.kl(model, batch, reference=eager)
    assert "The reference has torch.bfloat16 weights and the model torch.float32" in caplog.text
    assert "The reference has eager attention kernels and the model sdpa" in caplog.text


# Adapters are as before


def adapted(**options):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny.tiny_llama(), config)
    model.add_adapter("second", config)
    return model.train()


def state(model):
    """All that switching adapters off and on may change."""
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    adapters = {
        (name, key): copy.copy(vars(module)[key])
        for name, module in model.named_modules()
        for key in ("_active_adapter", "_disable_adapters")
        if key in vars(module)
    }
    assert adapters
    return flags, adapters, model.active_adapter, [module.training for module in model.modules()]


def frozen_a(model):
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)


def frozen_second(model):
    model.base_model.set_adapter(["default", "second"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora" in name and "second" not in name)


def all_frozen(model):
    model.requires_grad_(False)


def switched_off(model):
    model.base_model.disable_adapter_layers()


def trained_base(model):
    model.base_model.model.lm_head.requires_grad_(True)


def second_alone(model):
    model.set_adapter("second")
    frozen_a(model)


@pytest.mark.parametrize("prepare", [frozen_a, frozen_second, all_frozen, switched_off, trained_base, second_alone])
@pytest.mark.parametrize("fails", [False, True])
def test_adapters_off_restores_what_was(batch, prepare, fails):
    model = adapted()
    prepare(model)
    before = state(model)
    expected = objectives.sequence_log_probs(tiny.tiny_llama(), batch)
    reference = objectives.adapters_off(model)
    if fails:
        with pytest.raises(IndexError):
            reference(**{**batch, "input_ids": batch["input_ids"] + 110})
    else:
        assert torch.equal(objectives.sequence_log_probs(reference, batch), expected)
    assert state(model) == before


def test_modules_to_save_keep_what_is_trained(batch):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny.tiny_llama(), config).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    before = state(model)
    objectives.adapters_off(model)(**batch)
    assert state(model) == before


def test_a_reference_between_forward_and_backward_changes_no_gradient(batch):
    model = adapted()
    frozen_a(model)
    gradients = []
    for between in (lambda: None, lambda: objectives.adapters_off(model)(**batch)):
        model.zero_grad()
        loss = objectives.nll(model, batch)
        between()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]
    assert not any("lora_A" in name for name in gradients[0])
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_a_wrapped_reference(batch):
    """A module that is no model of transformers, in training mode."""

    class Double(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask)

    model = tiny.tiny_llama()
    found = objectives.npo(model, batch, reference=Double(frozen(model)).train())
    assert found.item() == pytest.approx(START, abs=1e-5)
