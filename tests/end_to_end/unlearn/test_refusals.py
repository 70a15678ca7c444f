"""Models, settings and output folders that are refused before training."""

from __future__ import annotations

import pytest

import retainfirst as rf
from retainfirst.unlearning import unlearn
from unlearn_runs import saved_model


def test_an_output_that_is_in_use_is_refused(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(rf.RetainFirstError, match="not empty"):
        unlearn(config())
    with pytest.raises(rf.RetainFirstError, match="no unfinished run"):
        unlearn(config(resume=True))
    with pytest.raises(rf.RetainFirstError, match="is a file"):
        unlearn(config(output=str(tmp_path / "out" / "thesis.txt")))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_model_without_a_pad_token(config, tmp_path):
    from tiny import save_tiny

    folder = save_tiny(tmp_path / "padless", pad=False)
    with pytest.raises(rf.RetainFirstError, match="--pad-token"):
        unlearn(config(model=str(folder)))
    assert not (tmp_path / "out").exists()
    assert unlearn(config(model=str(folder), pad_token="<pad>", max_steps=1))["steps"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"objective": "npoo"}, "Did you mean 'npo'"),
        ({"retain_loss": "kll"}, "Did you mean 'kl'"),
        ({"combiner": "sag"}, "Did you mean 'sago'"),
        ({"combiner": "pcgrad", "scope": "blok"}, "Did you mean 'block'"),
        ({"combiner": "sago", "scope": "block"}, "no option 'scope'"),
        ({"alpha": 0.0}, "alpha"), ({"gamma": -1.0}, "gamma"), ({"gamma": float("nan")}, "gamma"),
        ({"learning_rate": 0.0}, "learning_rate"), ({"learning_rate": float("nan")}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"), ({"max_steps": 0}, "max_steps"), ({"epochs": 0.0}, "epochs"),
        ({"beta": 0.1}, "'ga' has no beta"), ({"objective": "npo", "delta": 0.1}, "'npo' has no delta"),
        ({"objective": "npo", "beta": 0.0}, "beta"), ({"stop_at_forget_probability": 1.5}, "stop_at_forget_probability"),
        ({"dtype": "float8"}, "dtype"), ({"device": "tpu"}, "device"), ({"offload": "disk"}, "offload"),
        ({"lora_rank": -1}, "lora_rank"),
        ({"chat_template": "sometimes"}, "chat_template"), ({"pairing": "zip"}, "pairing"), ({"max_length": 1}, "max_length"),
        ({"dtype": "float16"}, "vanish"), ({"seed": -1}, "seed"), ({"objective": "simnpo", "delta": float("nan")}, "delta"),
    ],
)  # fmt: skip
def test_bad_settings_are_named_before_anything_is_loaded(config, options, text):
    with pytest.raises(rf.RetainFirstError, match=text):
        config(**options)


def test_a_model_that_is_none(config, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no model")
    for name, message in (("nothing", "is empty"), ("missing", "no such folder"), ("text", r"has no config\.json")):
        with pytest.raises(rf.RetainFirstError, match=message):
            unlearn(config(model=str(tmp_path / name)))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_an_adapter_is_refused_before_training(config, tmp_path):
    peft = pytest.importorskip("peft")
    from tiny import tiny_llama

    adapted = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(rf.RetainFirstError, match="holds a PEFT adapter, not a whole model"):
        unlearn(config(model=str(tmp_path / "adapter")))


def test_an_encoder_is_refused(config, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 128,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    encoder = transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    with pytest.raises(rf.RetainFirstError, match=r"\(BertLMHeadModel\) is not causal"):
        unlearn(config(model=saved_model(encoder, tmp_path / "bert")))


def test_a_quantised_model_is_refused_before_it_is_trained(config, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedModel.is_quantized", True, raising=False)
    with pytest.raises(rf.RetainFirstError, match="is quantised, and what is learned cannot be merged"):
        unlearn(config(lora_rank=2))


def test_a_tokenizer_that_does_not_belong_to_the_model(config, tmp_path):
    import shutil

    from transformers import LlamaConfig, LlamaForCausalLM

    import tiny

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=50, **shape)).save_pretrained(tmp_path / "small")
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "small")
    with pytest.raises(rf.RetainFirstError, match="50 embeddings"):
        unlearn(config(model=str(tmp_path / "small")))
    shutil.copytree(config().model, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(rf.RetainFirstError, match="could be loaded from"):
        unlearn(config(model=str(tmp_path / "cut")))
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(rf.RetainFirstError, match="cannot be written"):
        unlearn(config(output=str(tmp_path / "file" / "out")))


def test_a_report_target_that_is_none(config, tmp_path):
    with pytest.raises(rf.RetainFirstError, match="refused the settings"):
        unlearn(config(report_to="nowhere", output=str(tmp_path / "deep" / "out")))
    assert not (tmp_path / "deep").exists()
