"""What a model is given, which tokens are scored, and what the losses average over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import tiny
from retainfirst import objectives
from retainfirst.errors import RetainFirstError, ShapeMismatch


@pytest.fixture
def reference():
    return tiny.tiny_llama(seed=1)


@pytest.fixture
def batch():
    return tiny.tiny_batch()


SCORES = {
    "nll": objectives.nll,
    "ga": objectives.gradient_ascent,
    "npo": objectives.npo,
    "simnpo": lambda model, batch: objectives.simnpo(model, batch, beta=0.1),
    "log-probability": objectives.sequence_log_probs,
    "probability": objectives.answer_probabilities,
}


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=110, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    config.initializer_range = 0.2
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()


def score(name, model, batch):
    return SCORES[name](model, {**batch, "reference_logps": torch.zeros(len(batch["labels"]))})


@pytest.mark.parametrize("name", SCORES)
def test_the_label_of_a_first_token_does_not_count(llama, name):
    """As the standard collator makes labels: ``labels == input_ids``."""
    batch = tiny.tiny_batch(prompt=0)
    without = {**batch, "labels": batch["labels"].clone()}
    without["labels"][:, 0] = -100
    assert torch.equal(score(name, llama, batch), score(name, llama, without))
    for kind in ("ga", "simnpo"):
        assert torch.equal(objectives.count_items(kind, batch), objectives.count_items(kind, without))


def left_padded(batch, *, positions: bool):
    """The same rows with the padding in front."""
    lengths = batch["attention_mask"].sum(-1).tolist()
    longest = batch["labels"].shape[1]
    turned = {
        key: torch.stack([row.roll(longest - n) for row, n in zip(value, lengths, strict=True)])
        for key, value in batch.items()
    }
    if positions:
        turned["position_ids"] = (turned["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return turned


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("prompt", [0, 3])
def test_left_padding_with_positions_changes_no_score(name, prompt):
    """GPT-2 counts positions from the row's start, padding included, unless it is given them."""
    batch = tiny.tiny_batch(prompt=prompt)
    for model in (gpt2(), tiny.tiny_llama()):
        expected = score(name, model, batch)
        assert torch.allclose(score(name, model, left_padded(batch, positions=True)), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(
        score(name, gpt2(), left_padded(batch, positions=False)), score(name, gpt2(), batch), rtol=1e-4
    )


def packed(batch, pad: int = 2):
    """All rows behind each other in one, with positions that start again."""
    real = batch["attention_mask"].bool()
    row = {key: value[real][None] for key, value in batch.items()}
    row["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1)[real][None]
    fill = {"labels": -100, "attention_mask": 0, "input_ids": 0, "position_ids": 0}
    return {key: torch.nn.functional.pad(value, (0, pad), value=fill[key]) for key, value in row.items()}


@pytest.mark.parametrize("prompt", [0, 3])
def test_packed_rows_score_as_their_sequences(prompt):
    batch = tiny.tiny_batch(prompt=prompt)
    for model in (gpt2(), tiny.tiny_llama()):
        together = packed(batch)
        for name in ("nll", "ga"):
            assert score(name, model, together).item() == pytest.approx(score(name, model, batch).item(), rel=1e-5)
        total = objectives.sequence_log_probs(model, batch).sum().item()
        assert objectives.sequence_log_probs(model, together).tolist() == pytest.approx([total], rel=1e-5)
        assert objectives.count_items("ga", together) == objectives.count_items("ga", batch)
        # Two packed rows, the second with one sequence.
        both = {key: torch.cat([value, value.roll(0)]) for key, value in together.items()}
        end = int(batch["attention_mask"][0].sum())
        both["attention_mask"][1, end:] = 0
        both["labels"][1, end:] = -100
        expected = [total, objectives.sequence_log_probs(model, batch)[0].item()]
        assert objectives.sequence_log_probs(model, both).tolist() == pytest.approx(expected, rel=1e-5)
    loss = objectives.nll(model, together)
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    objectives.nll(model, batch).backward()
    for found, parameter in zip(gradients, model.parameters(), strict=True):
        assert torch.allclose(found, parameter.grad, atol=1e-5)


class Recorder(torch.nn.Module):
    """A model whose forward names its inputs."""

    def __init__(self):
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None, position_ids=None, token_type_ids=None, labels=None, **kwargs):
        self.seen = {"position_ids": position_ids, "token_type_ids": token_type_ids, "labels": labels, **kwargs}
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 110) + self.weight)


class Wrapper(torch.nn.Module):
    """Passes everything on, as the wrappers of torch and of trainers do."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs, **kwargs):
        return self.module(*inputs, **kwargs)


def test_further_inputs_reach_a_model_that_takes_them(batch):
    further = {
        "position_ids": torch.arange(12).expand(3, 12), "token_type_ids": torch.ones(3, 12, dtype=torch.int64),
        "index": torch.arange(3), "reference_logps": torch.zeros(3),
    }  # fmt: skip
    for wrap in (lambda model: model, Wrapper, lambda model: Wrapper(Wrapper(model)), torch.compiler.disable):
        recorder = Recorder()
        model = wrap(recorder)
        for loss in (objectives.gradient_ascent, objectives.npo, objectives.simnpo, objectives.nll):
            recorder.seen = {}
            loss(model, {**batch, **further})
            assert recorder.seen["position_ids"] is further["position_ids"]
            assert recorder.seen["token_type_ids"] is further["token_type_ids"]
            assert recorder.seen["labels"] is None
            assert "index" not in recorder.seen
    # Llama's forward has no token types.
    objectives.nll(tiny.tiny_llama(), {**batch, **further})


def test_further_inputs_reach_a_model_inside_peft(batch):
    peft = pytest.importorskip("peft")
    model = gpt2()
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    turned = left_padded(batch, positions=True)
    expected = objectives.sequence_log_probs(model, batch)
    adapted = peft.get_peft_model(model, config).eval()
    for wrapped in (adapted, Wrapper(adapted), objectives.adapters_off(adapted)):
        assert torch.allclose(objectives.sequence_log_probs(wrapped, turned), expected, rtol=1e-5)


def test_inputs_of_peft_itself(batch):
    """Only the outer model names ``task_ids``."""
    peft = pytest.importorskip("peft")
    config = peft.MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, num_tasks=3, num_ranks=1)
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny.tiny_llama(), config).eval()
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)
    losses = [objectives.nll(model, {**batch, "task_ids": torch.full((3,), task)}).item() for task in range(3)]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig", "PrefixTuningConfig"])
def test_adapters_that_lengthen_the_row(batch, reference, kind):
    """Prompt tuning gives logits for its virtual tokens too; they come first."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = {"num_attention_heads": 2, "token_dim": 16} if kind == "PrefixTuningConfig" else {}
    model = tiny.tiny_llama()
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=5, **options)
    adapted = peft.get_peft_model(model, config).eval()
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    logits = adapted(**inputs).logits[:, -12:].float()

    def short(**_):
        return SimpleNamespace(logits=logits)

    stored = {**batch, "reference_logps": torch.tensor([-3.0, -4.0, -5.0])}
    for loss in (objectives.gradient_ascent, objectives.npo, objectives.simnpo, objectives.nll):
        assert torch.equal(loss(adapted, stored), loss(short, stored))
    for loss in (objectives.npo, objectives.kl):
        assert torch.equal(loss(adapted, batch, reference=reference), loss(short, batch, reference=reference))
        off = objectives.adapters_off(adapted)
        assert torch.equal(loss(adapted, batch, reference=off), loss(short, batch, reference=model))
    objectives.simnpo(adapted, batch).backward()
    assert any(parameter.grad is not None for parameter in adapted.parameters())


def test_too_few_logits(batch):
    with pytest.raises(ShapeMismatch, match=r"logits of shape \(3, 11, 110\) for rows of 12 tokens"):
        objectives.simnpo(lambda **_: SimpleNamespace(logits=torch.zeros(3, 11, 110)), batch)


# Accumulation


@pytest.mark.parametrize("name", [*objectives.FORGET_OBJECTIVES, *objectives.RETAIN_OBJECTIVES])
def test_micro_batches_add_up_to_the_large_batch(llama, reference, name):
    """Rows of uneven length, one a micro-batch; KL counts padding, so its rows are as long as each other."""
    batch = tiny.tiny_batch((9, 9, 9) if name == "kl" else (9, 5, 40))
    function = {**objectives.FORGET_OBJECTIVES, **objectives.RETAIN_OBJECTIVES}[name]
    options = {"reference": reference} if name in ("npo", "kl") else {}
    rows = [
        {key: value[i : i + 1, :n] for key, value in batch.items()}
        for i, n in enumerate(batch["attention_mask"].sum(-1))
    ]
    gradients, losses = [], []
    function(llama, batch, **options).backward()
    gradients.append([parameter.grad.clone() for parameter in llama.parameters()])
    losses.append(function(llama, batch, **options).item())
    count = sum(objectives.count_items(name, row) for row in rows)
    assert count == objectives.count_items(name, batch)
    for items in (count, int(count)):
        llama.zero_grad()
        parts = [function(llama, row, num_items=items, **options) for row in rows]
        sum(parts).backward()
        losses.append(sum(parts).item())
        gradients.append([parameter.grad.clone() for parameter in llama.parameters()])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    for found in gradients[1:]:
        for a, b in zip(found, gradients[0], strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_the_trainer_counts_items_itself(tmp_path):
    transformers = pytest.importorskip("transformers")
    from retainfirst.hf import TwoTaskTrainer

    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    for option, message in (("num_items", "ga has no option 'num_items'. It has none."), ("beta", "It has none.")):
        with pytest.raises(RetainFirstError, match=message):
            TwoTaskTrainer(model=tiny.tiny_llama(), args=arguments, objective="ga", objective_options={option: 3})


def test_every_objective_says_what_it_averages_over(batch):
    assert set(objectives.ITEMS) == {*objectives.FORGET_OBJECTIVES, *objectives.RETAIN_OBJECTIVES}
    found = {name: objectives.count_items(name, batch).item() for name in objectives.ITEMS}
    assert found == {"ga": 18, "nll": 18, "npo": 3, "simnpo": 3, "kl": 36}
    with pytest.raises(RetainFirstError, match=r"Unknown objective 'gaa'\. Did you mean 'ga'"):
        objectives.count_items("gaa", batch)
