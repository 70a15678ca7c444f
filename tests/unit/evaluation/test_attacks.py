"""Quantisation and relearning: what they compute, and that the model is itself again afterwards."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from retainfirst import evaluation as ev
from retainfirst.data import collate, encode_rows
from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst.objectives import nll
from tiny import tiny_batch

GENERATOR = torch.Generator().manual_seed(0)


def nearest(weight, bits, group):
    """The nearest multiples of each group's scale, one weight after the other."""
    out = weight.clone()
    size = group or weight.shape[1]
    for i in range(weight.shape[0]):
        for start in range(0, weight.shape[1], size):
            part = weight[i, start : start + size]
            scale = float(part.abs().max()) / (2 ** (bits - 1) - 1)
            for j, value in enumerate(part.tolist()):
                out[i, start + j] = round(value / scale) * scale if scale else 0.0
    return out


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 4), (3, 5), (2, 100)])
def test_round_to_nearest(bits, group):
    weight = torch.randn(3, 10, generator=GENERATOR)
    weight[1] = 0
    found = ev.round_to_nearest(weight, bits, group)
    torch.testing.assert_close(found, nearest(weight, bits, group))
    for row in found:
        assert len(row[: group or 10].unique()) <= 2**bits - 1


def test_error_shrinks_with_bits_and_groups():
    weight = torch.randn(16, 128, generator=GENERATOR)
    errors = [float((ev.round_to_nearest(weight, *how) - weight).norm()) for how in ((4, None), (4, 64), (8, None))]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("bits", "group", "text"), [(1, None, "bits must be from 2 to 8, found 1"), (4, 0, "group must be at")]
)
def test_bad_sizes_are_refused(bits, group, text):
    with pytest.raises(RetainFirstError, match=text):
        ev.round_to_nearest(torch.zeros(2, 2), bits, group)


def test_a_quantised_model_has_rounded_linear_layers_alone_and_is_itself_again(llama):
    before = {name: one.detach().clone() for name, one in llama.named_parameters()}
    with ev.quantized(llama, 4, 16):
        for name, one in llama.named_parameters():
            changed = "proj" in name
            expected = ev.round_to_nearest(before[name], 4, 16) if changed else before[name]
            assert torch.equal(one, expected), name
            assert not changed or not torch.equal(one, before[name])
    assert all(torch.equal(one, before[name]) for name, one in llama.named_parameters())


def test_an_error_in_the_block_restores_the_model_too(llama):
    before = llama.model.layers[0].mlp.up_proj.weight.detach().clone()
    with pytest.raises(KeyError), ev.quantized(llama, 2):
        raise KeyError
    assert torch.equal(llama.model.layers[0].mlp.up_proj.weight, before)


def test_gpt2s_layers_are_quantised_along_their_input():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=30, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    model = transformers.GPT2LMHeadModel(config)
    weight = model.transformer.h[0].mlp.c_fc.weight
    before = weight.detach().clone()
    with ev.quantized(model, 4):
        assert torch.equal(weight, ev.round_to_nearest(before.T.contiguous(), 4).T)
    assert "lm_head.weight" not in ev.quantizable(model)


def test_nf4_is_what_transformers_loads(llama, tmp_path):
    """The model that ``BitsAndBytesConfig`` loads gives the same logits to the last bit."""
    pytest.importorskip("bitsandbytes")
    transformers = pytest.importorskip("transformers")
    if not torch.cuda.is_available() and transformers.__version__.startswith("4.45"):
        pytest.skip("this transformers quantises on a GPU only")
    llama.save_pretrained(tmp_path)
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    ids = tiny_batch()["input_ids"].to(loaded.device)
    llama.to(loaded.device)
    before = llama.model.layers[0].mlp.up_proj.weight.detach().clone()
    with torch.no_grad(), ev.quantized_nf4(llama):
        assert torch.equal(llama(ids).logits, loaded(ids).logits)
        assert not torch.equal(llama.model.layers[0].mlp.up_proj.weight, before)
    assert torch.equal(llama.model.layers[0].mlp.up_proj.weight, before)
    with pytest.raises(
        RetainFirstError, match=r"quantised \(bitsandbytes\), and its weights cannot be quantised again"
    ):
        ev.quantized_nf4(loaded).__enter__()


def test_nf4_without_bitsandbytes_names_the_extra(llama, monkeypatch):
    for name in ("bitsandbytes", "bitsandbytes.functional"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"pip install 'retainfirst\[quantize\]'"):
        ev.by_quantization("nf4", {})
    with pytest.raises(MissingDependency, match=r"retainfirst\[quantize\]"), ev.quantized_nf4(llama):
        pass


def test_nf4_without_kernels_for_the_device_says_what_to_do(llama, monkeypatch):
    def none(*_, **__):
        raise NotImplementedError("no kernel for cpu")

    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", SimpleNamespace(quantize_4bit=none))
    before = llama.model.layers[0].mlp.up_proj.weight.detach().clone()
    text = r"float32 weights on the device cpu to nf4 \(no kernel for cpu\).*at least 0.46"
    with pytest.raises(RetainFirstError, match=text), ev.quantized_nf4(llama):
        pass
    assert torch.equal(llama.model.layers[0].mlp.up_proj.weight, before)


def test_a_quantised_model_is_neither_quantised_nor_relearned(llama, rows):
    llama.is_quantized = True  # as transformers marks it
    with pytest.raises(RetainFirstError, match="is quantised, and its weights cannot be"), ev.quantized(llama, 4):
        pass
    text = "is quantised, and fine-tuning would leave its linear layers as they are"
    with pytest.raises(RetainFirstError, match=text), ev.relearned(llama, rows, 0, steps=1):
        pass


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(RetainFirstError, match="Embedding has no linear layer"), ev.quantized(nn.Embedding(2, 2), 4):
        pass


@pytest.fixture
def rows(tokenizer):
    texts = [{"question": f"who is {i}", "answer": f"the {'abcdef'[i]}"} for i in range(6)]
    encoded = encode_rows(texts, tokenizer, 64)
    return [encoded[i] for i in range(6)]


def test_relearning_lowers_the_loss_of_its_rows_and_ends(llama, rows):
    before = {name: one.detach().clone() for name, one in llama.named_parameters()}
    batch = collate(rows, 0)
    first, steps = nll(llama, batch).item(), []
    with ev.relearned(llama, rows, 0, steps=5, learning_rate=1e-2, advance=steps.append) as model:
        assert nll(model, batch).item() < first - 0.5
    assert steps == [1] * 5
    assert all(torch.equal(one, before[name]) for name, one in llama.named_parameters())
    assert all(one.grad is None for one in llama.parameters())


def test_relearning_is_plain_adamw(llama, rows):
    with ev.relearned(llama, rows[:2], 0, steps=1, learning_rate=1e-3, batch_size=2):
        found = {name: one.detach().clone() for name, one in llama.named_parameters()}
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-3, weight_decay=0.0)
    nll(llama, collate([rows[i] for i in (0, 1)], 0)).backward()
    torch.nn.utils.clip_grad_norm_(llama.parameters(), 1.0)
    optimizer.step()
    for name, one in llama.named_parameters():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5)


def test_half_of_the_rows_are_shown():
    shown, others = ev.split_rows(7)
    assert len(shown) == 3
    assert sorted(shown + others) == list(range(7))
    assert ev.split_rows(7) == (shown, others)
    with pytest.raises(RetainFirstError, match="at least 2 forget rows"):
        ev.split_rows(1)


@pytest.mark.parametrize(
    ("options", "text"), [({"steps": 0}, "steps must be at least 1"), ({"learning_rate": 0.0}, "above 0")]
)
def test_bad_relearning_is_refused(llama, rows, options, text):
    with pytest.raises(RetainFirstError, match=text), ev.relearned(llama, rows, 0, **{"steps": 1, **options}):
        pass
