"""Devices by name, and what is loaded from a model's folder."""

import json
import shutil
from contextlib import suppress

import pytest
import torch

from retainfirst.errors import RetainFirstError
from retainfirst.models import find_device, load_config, load_model, load_tokenizer


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_devices_that_the_machine_has(two_gpus, name):
    assert find_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cuda:2", "'cuda:2' cannot be used: this machine has 2 cuda devices"),
        ("cpu:1", "'cpu:1' cannot be used: this machine has 1 cpu device$"),
        ("meta", "'meta' cannot be used: this machine has no meta devices"),
        ("gpu:1", "'gpu:1' cannot be used: give one such as cpu, cuda or cuda:1"),
        ("cuda:-1", "'cuda:-1' cannot be used: give one"),
        ("", "'' cannot be used: give one"),
    ],
)
def test_devices_that_it_has_not(two_gpus, name, text):
    with pytest.raises(RetainFirstError, match=text):
        find_device(name)


def test_pickled_weights_are_refused(tiny_model_dir, tmp_path):
    model = load_model(str(tiny_model_dir))
    for file in tiny_model_dir.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        RetainFirstError, match=r"has its weights in pytorch_model.bin, a pickle.*save_pretrained\(CONVERTED"
    ):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("load", "file", "kind"),
    [(load_config, "config.json", "AutoConfig"), (load_tokenizer, "tokenizer_config.json", "AutoTokenizer")],
)
def test_python_code_in_a_models_folder_never_runs(tiny_model_dir, tmp_path, monkeypatch, load, file, kind):
    monkeypatch.setattr(
        "builtins.input", lambda _: "y"
    )  # transformers asks whether to run it, unless it is told not to
    shutil.copytree(tiny_model_dir, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    names = ["own.Own", None] if kind == "AutoTokenizer" else "own.Own"
    settings |= {"auto_map": {kind: names}, "model_type": "own", "tokenizer_class": "Own"}
    (tmp_path / file).write_text(json.dumps(settings), encoding="utf-8")
    if kind == "AutoTokenizer":  # its class is then unknown, so that only the code could make it
        (tmp_path / "config.json").unlink()
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n", encoding="utf-8")
    with suppress(RetainFirstError):
        load(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_the_refusal_of_code_does_not_advise_to_trust_it(tiny_model_dir, tmp_path):
    settings = json.loads((tiny_model_dir / "config.json").read_text(encoding="utf-8"))
    settings |= {"auto_map": {"AutoConfig": "own.Own"}, "model_type": "own"}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(RetainFirstError, match="retainfirst runs no code of a model") as caught:
        load_config(str(tmp_path))
    assert "trust_remote_code" not in str(caught.value)
