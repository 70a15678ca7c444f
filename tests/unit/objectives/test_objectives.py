"""The losses against their formulas, written out here with plain loops over tokens."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import tiny
from retainfirst import objectives
from retainfirst.errors import RetainFirstError, ShapeMismatch

# The loops below run in float64, the losses in float32: a sum over at most 9 tokens of numbers below 20
# is right to about 20 * 9 * 2**-24 = 1e-5.
CLOSE = {"rel": 1e-5, "abs": 2e-5}


@pytest.fixture
def reference():
    return tiny.tiny_llama(seed=1)


@pytest.fixture
def batch():
    return tiny.tiny_batch()


def token_log_probs(model, batch) -> list[list[float]]:
    """For each row, the log-probability of each labelled token."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
    rows = []
    for scores, labels in zip(logits, batch["labels"], strict=True):
        row = []
        for t in range(1, len(labels)):
            if labels[t] != -100:
                before = scores[t - 1].tolist()
                row.append(before[labels[t]] - math.log(sum(math.exp(s) for s in before)))
        rows.append(row)
    return rows


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def test_sequence_log_probs_sum_the_labelled_tokens_of_each_row(llama, batch):
    expected = [sum(row) for row in token_log_probs(llama, batch)]
    assert objectives.sequence_log_probs(llama, batch).tolist() == pytest.approx(expected, **CLOSE)


def test_padding_does_not_change_a_row(llama, batch):
    together = objectives.sequence_log_probs(llama, batch)
    for i, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
        alone = {key: value[i : i + 1, :length] for key, value in batch.items()}
        assert objectives.sequence_log_probs(llama, alone).item() == pytest.approx(together[i].item(), **CLOSE)


def test_answer_probability_is_the_geometric_mean(llama, batch):
    expected = [math.prod(math.exp(p) for p in row) ** (1 / len(row)) for row in token_log_probs(llama, batch)]
    assert objectives.answer_probabilities(llama, batch).tolist() == pytest.approx(expected, **CLOSE)


def test_gradient_ascent_is_minus_nll_per_token_of_the_whole_batch(llama, batch):
    tokens = [p for row in token_log_probs(llama, batch) for p in row]
    assert objectives.nll(llama, batch).item() == pytest.approx(-mean(tokens), **CLOSE)
    assert objectives.gradient_ascent(llama, batch).item() == pytest.approx(mean(tokens), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(9, 6, 12), (30,), (7, 7, 101, 3)])
def test_likelihood_losses_are_the_models_own(dtype, lengths):
    model, batch = tiny.tiny_llama(dtype=dtype), tiny.tiny_batch(lengths, prompt=2)
    found = []
    for compute in (
        lambda: model(**batch).loss, lambda: objectives.nll(model, batch), lambda: -objectives.gradient_ascent(model, batch),
    ):  # fmt: skip
        model.zero_grad()
        loss = compute()
        loss.backward()
        found.append((loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    for loss, gradients in found[1:]:
        # Versions before 4.50 add the same numbers up in another order.
        assert loss.item() == pytest.approx(found[0][0].item(), rel=1e-6)
        assert all(torch.equal(a, b) for a, b in zip(gradients, found[0][1], strict=True))


def test_a_models_further_loss_terms_are_left_out(batch):
    """Gradient ascent must not climb the load balancing of a mixture of experts, nor any other term."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=110, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, router_aux_loss_coef=5.0, output_router_logits=True,
    )  # fmt: skip
    torch.manual_seed(0)
    experts = transformers.MixtralForCausalLM(config).eval()
    assert experts(**batch).loss - objectives.nll(experts, batch) > 1.0
    gradients = []
    for balanced in (False, True):
        experts.config.output_router_logits = balanced
        experts.zero_grad()
        objectives.gradient_ascent(experts, batch).backward()
        gradients.append([parameter.grad.clone() for parameter in experts.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_npo(llama, reference, batch, beta):
    now, then = token_log_probs(llama, batch), token_log_probs(reference, batch)
    expected = -2 / beta * mean(log_sigmoid(-beta * (sum(a) - sum(b))) for a, b in zip(now, then, strict=True))
    loss = objectives.npo(llama, batch, beta=beta, reference=reference)
    assert loss.item() == pytest.approx(expected, **CLOSE)


def test_npo_beta_defaults_to_the_frameworks(llama, reference, batch):
    default = objectives.npo(llama, batch, reference=reference)
    assert torch.equal(default, objectives.npo(llama, batch, beta=0.1, reference=reference))


def test_npo_at_the_reference_is_log_two(llama, batch):
    # The log-ratio is exactly zero, so only the rounding of log 2 and of one product remains.
    assert objectives.npo(llama, batch, beta=0.5, reference=llama).item() == pytest.approx(4 * math.log(2), rel=1e-6)


def test_npo_takes_precomputed_log_probs(llama, reference, batch):
    stored = {**batch, "reference_logps": objectives.reference_log_probs(reference, [batch])}
    assert torch.equal(objectives.npo(llama, stored), objectives.npo(llama, batch, reference=reference))


@pytest.mark.parametrize(("beta", "delta"), [(4.5, 0.0), (0.1, 2.0)])
def test_simnpo(llama, batch, beta, delta):
    expected = -2 / beta * mean(log_sigmoid(beta * (-mean(row) - delta)) for row in token_log_probs(llama, batch))
    assert objectives.simnpo(llama, batch, beta=beta, delta=delta).item() == pytest.approx(expected, **CLOSE)


def test_kl_is_of_the_model_from_the_reference_over_all_positions(llama, reference, batch):
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        p = reference(**inputs).logits.double().softmax(-1)
        q = llama(**inputs).logits.double().softmax(-1)
    expected = (p * (p / q).log()).sum() / batch["input_ids"].numel()  # padding counts, as in the framework
    assert objectives.kl(llama, batch, reference=reference).item() == pytest.approx(expected.item(), **CLOSE)
    assert objectives.kl(llama, batch, reference=llama).item() == 0.0


def test_kl_of_masked_vocabularies(llama, reference, batch):
    """Tokens that no model gives: 0, as if they were not in the vocabulary."""
    masked = torch.zeros(110, dtype=torch.bool)
    masked[50:] = True

    def over(model, vocabulary):
        def run(**inputs):
            logits = model(**inputs).logits
            return SimpleNamespace(
                logits=logits[..., :50] if vocabulary == 50 else logits.masked_fill(masked, -math.inf)
            )

        return run

    losses = []
    for vocabulary in (50, 110):
        llama.zero_grad()
        loss = objectives.kl(over(llama, vocabulary), batch, reference=over(reference, vocabulary))
        loss.backward()
        losses.append((loss.item(), [parameter.grad.clone() for parameter in llama.parameters()]))
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-6)
    for small, large in zip(losses[0][1], losses[1][1], strict=True):
        assert torch.allclose(small, large, atol=1e-6)
    # Where only the reference gives nothing, the term is 0 too; where only the model gives nothing, it is infinite.
    assert objectives.kl(llama, batch, reference=over(reference, 110)).isfinite()
    assert objectives.kl(over(llama, 110), batch, reference=reference).item() == math.inf


LOSSES = {
    "ga": (objectives.gradient_ascent, -1),
    "npo": (objectives.npo, -1),
    "simnpo": (lambda model, batch: objectives.simnpo(model, batch, beta=0.1), -1),
    "nll": (objectives.nll, 1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_descent_moves_the_answers_as_the_name_says(llama, batch, name):
    loss, direction = LOSSES[name]
    before = objectives.reference_log_probs(llama, [batch])
    loss(llama, {**batch, "reference_logps": before}).backward()
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter -= 1e-3 * parameter.grad
    after = objectives.sequence_log_probs(llama, batch)
    assert direction * (after.sum() - before.sum()).item() > 0


def test_descent_of_kl_approaches_the_reference(llama, reference, batch):
    before = objectives.kl(llama, batch, reference=reference)
    before.backward()
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter -= 1e-3 * parameter.grad
    assert objectives.kl(llama, batch, reference=reference) < before
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_npo_gives_the_reference_no_gradient(llama, reference, batch):
    objectives.npo(llama, batch, reference=reference).backward()
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert all(parameter.grad is not None for parameter in llama.parameters())


def test_the_model_sees_only_its_own_keys(batch):
    seen: list[set[str]] = []

    def model(**inputs: Tensor) -> SimpleNamespace:
        seen.append(set(inputs))
        return SimpleNamespace(logits=torch.zeros(*inputs["input_ids"].shape, 110))

    extra = {**batch, "reference_logps": torch.zeros(3), "index": torch.arange(3)}
    for loss in (objectives.gradient_ascent, objectives.npo, objectives.simnpo, objectives.nll):
        loss(model, extra)
    objectives.kl(model, extra, reference=model)
    assert set.union(*seen) == {"input_ids", "attention_mask"}


def test_sixteen_bit_logits_are_summed_in_float32(batch):
    narrow = tiny.tiny_llama(dtype=torch.bfloat16)
    log_probs = objectives.sequence_log_probs(narrow, batch)
    assert log_probs.dtype == torch.float32
    expected = [sum(row) for row in token_log_probs(narrow, batch)]
    assert log_probs.tolist() == pytest.approx(expected, **CLOSE)


def test_reference_log_probs_keep_the_order_and_the_modes(llama, batch):
    llama.train()
    llama.model.layers[0].eval()
    modes = [module.training for module in llama.modules()]
    batches = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(3)]
    log_probs = objectives.reference_log_probs(llama, batches)
    assert not log_probs.requires_grad
    assert log_probs.tolist() == pytest.approx(objectives.sequence_log_probs(llama, batch).tolist(), **CLOSE)
    with pytest.raises(RetainFirstError):
        objectives.reference_log_probs(llama, [{"input_ids": batch["input_ids"]}])
    assert [module.training for module in llama.modules()] == modes


def test_adapters_off_is_the_base_model(llama, batch):
    peft = pytest.importorskip("peft")
    base = objectives.sequence_log_probs(llama, batch).detach()
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.5  # so that a reference in training mode would show
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(llama, config).train()
    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    reference = objectives.adapters_off(adapted)

    assert torch.equal(objectives.sequence_log_probs(reference, batch), base)
    assert not torch.allclose(objectives.sequence_log_probs(adapted, batch), base, atol=1e-3)
    loss = objectives.npo(adapted, batch, reference=reference) + objectives.kl(adapted, batch, reference=reference)
    loss.backward()
    assert [name for name, p in adapted.named_parameters() if p.grad is not None] == trainable
    assert [name for name, p in adapted.named_parameters() if p.requires_grad] == trainable
    assert all(module.training for module in adapted.modules())


def test_adapters_off_needs_adapters(llama):
    with pytest.raises(RetainFirstError, match="LlamaForCausalLM has no adapters"):
        objectives.adapters_off(llama)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("loss", [objectives.npo, objectives.simnpo])
def test_beta_must_be_positive(llama, batch, loss, beta):
    with pytest.raises(RetainFirstError, match="beta must be a finite number above 0"):
        loss(llama, batch, beta=beta)


def test_delta_must_be_finite(llama, batch):
    with pytest.raises(RetainFirstError, match="delta must be a finite number, found nan"):
        objectives.simnpo(llama, batch, delta=math.nan)


def test_npo_without_any_reference(llama, batch):
    with pytest.raises(RetainFirstError, match=r"NPO needs a reference.*'reference_logps'"):
        objectives.npo(llama, batch)


@pytest.mark.parametrize("shape", [(2,), (1,), (3, 1), ()])
def test_reference_log_probs_must_be_one_a_row(llama, batch, shape):
    with pytest.raises(ShapeMismatch, match="3 rows"):
        objectives.npo(llama, {**batch, "reference_logps": torch.zeros(shape)})


@pytest.mark.parametrize("key", ["input_ids", "attention_mask", "labels"])
def test_a_missing_key_is_named(llama, batch, key):
    del batch[key]
    for loss in (objectives.gradient_ascent, objectives.simnpo, objectives.nll):
        with pytest.raises(RetainFirstError, match=f"no '{key}'"):
            loss(llama, batch)


def test_no_batches(llama):
    with pytest.raises(RetainFirstError, match="No batch"):
        objectives.reference_log_probs(llama, [])


def test_names():
    assert objectives.get_objective("forget", "ga") is objectives.gradient_ascent
    assert objectives.get_objective("retain", "kl") is objectives.kl
    assert (*objectives.FORGET_OBJECTIVES, *objectives.RETAIN_OBJECTIVES) == (
        "ga",
        "npo",
        "simnpo",
        "nll",
        "kl",
    )
    with pytest.raises(RetainFirstError, match=r"Unknown forget objective 'sinpo'\. Did you mean 'simnpo'"):
        objectives.get_objective("forget", "sinpo")
    with pytest.raises(RetainFirstError, match="Unknown retain objective 'npo'"):
        objectives.get_objective("retain", "npo")
    with pytest.raises(RetainFirstError, match=r"Unknown kind of objective 'forgot'\. Did you mean 'forget'"):
        objectives.get_objective("forgot", "npo")
