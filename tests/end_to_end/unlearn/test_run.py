"""A whole run from files to an output folder, on a tiny model."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

import retainfirst as rf
from retainfirst.geometry import FIELDS
from retainfirst.models import load_model, load_tokenizer
from retainfirst.unlearning import UnlearnConfig, unlearn
from unlearn_runs import Measures, same, weights


def test_what_a_run_leaves_behind(config, curves):
    settings = config(combiner="pcgrad", scope="block", gamma=0.5)
    report = unlearn(settings)
    out = Path(settings.output)
    assert json.loads((out / "unlearning.json").read_text()) == report
    assert report["config"]["combiner"] == "pcgrad"
    assert report["seed"] == 0
    assert {"torch", "transformers", "python", "retainfirst"} <= set(report["versions"])
    assert report["data"]["forget_rows"] == 4
    assert report["data"]["retain_rows"] == 6
    assert [step["step"] for step in report["steps"]] == [1, 2, 3, 4, 5, 6]
    for step in report["steps"]:
        assert step["forget_loss"] < 0 < step["retain_loss"]
        assert set(step["geometry"]) == set(FIELDS)
    assert set(report["before"]) == set(report["after"]) == {"forget_probability", "retain_probability"}
    assert report["after"]["forget_probability"] < report["before"]["forget_probability"]
    assert report["after"]["retain_probability"] > report["before"]["retain_probability"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text()
    assert "| combiner | pcgrad |" in card
    assert f"{report['after']['forget_probability']:.4f}" in card
    assert not (out / ".unfinished").exists()
    assert load_tokenizer(str(out)).pad_token_id == 0
    assert "rope_theta" in json.loads((out / "config.json").read_text())  # where transformers 4 looks for it
    assert not same(load_model(str(out)).state_dict(), load_model(settings.model).state_dict())


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"objective": "npo"}, {"beta": 0.1, "delta": None, "scope": None, "combiner_options": {}}),
        ({"objective": "simnpo", "beta": 2.0}, {"beta": 2.0, "delta": 0.0}),
        ({"combiner": "pcgrad"}, {"scope": "tensor", "combiner_options": {"round_toward_retain": False}, "beta": None}),
        (
            {"combiner": "gru", "combiner_options": {"scope": "block"}},
            {"scope": "block", "combiner_options": {"average": 0.0}},
        ),
        ({"epochs": 2.0, "max_steps": None}, {"epochs": 2.0, "max_steps": 6}),
        ({"max_steps": 6, "device": "auto"}, {"epochs": 2, "max_steps": 6, "device": "cpu", "pad_token": "<pad>"}),
    ],
)
def test_the_record_has_the_values_that_were_used(config, options, used):
    if options.get("device") == "auto" and torch.cuda.is_available():
        pytest.skip("this machine has an accelerator")
    settings = config(**options)
    found = unlearn(settings)["config"]
    assert {name: found[name] for name in used} == used
    again = UnlearnConfig(**found, output=settings.output)
    assert again.make_combiner() == settings.make_combiner()


def code_of(card):
    """Return the Python of a model card."""
    return "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_card_says_how_to_load_the_model_and_has_all_settings(config, monkeypatch, lora_rank):
    settings = config(lora_rank=lora_rank, max_length=99, where="mlp|attn")
    report = unlearn(settings)
    card = (Path(settings.output) / "README.md").read_text()
    assert f'\nbase_model: "{Path(settings.model).name}"  # a folder here; ' in card.split("---")[1]
    for name, value in report["config"].items():
        assert (f"| {name} | " in card) == (name != "model" and value not in (None, {})), name
    assert "| max_length | 99 |" in card
    assert r"| pad_token | \<pad> |" in card
    assert r"| where | mlp\|attn |" in card
    monkeypatch.chdir(settings.output)
    names = {}
    exec(code_of(card), names)
    assert hasattr(names["model"], "peft_config") == bool(lora_rank)
    ids = torch.tensor([names["tokenizer"]("the one")["input_ids"]])
    with torch.no_grad():
        found, written = (model(input_ids=ids).logits for model in (names["model"], load_model(".")))
    torch.testing.assert_close(found, written, rtol=1e-4, atol=1e-4)  # the merge rounds
    assert not Path("adapter/README.md").exists()


@pytest.mark.parametrize("objective", ["ga", "npo", "simnpo"])
@pytest.mark.parametrize("retain_loss", ["nll", "kl"])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_every_objective(config, objective, retain_loss, lora_rank):
    settings = config(objective=objective, retain_loss=retain_loss, lora_rank=lora_rank, max_steps=3)
    report = unlearn(settings)
    assert len(report["steps"]) == 3
    first = report["steps"][0]
    if objective == "npo":
        # At the first step the model is its own reference: 2/beta log 2, whatever the data.
        assert first["forget_loss"] == pytest.approx(2 / 0.1 * torch.tensor(2.0).log().item(), rel=1e-4)
    if retain_loss == "kl":
        assert first["retain_loss"] == pytest.approx(0.0, abs=1e-5)
    out = Path(settings.output)
    assert (out / "adapter" / "adapter_config.json").is_file() == bool(lora_rank)
    assert not same(load_model(str(out)).state_dict(), load_model(report["config"]["model"]).state_dict())


def test_a_run_is_a_function_of_its_settings(config, tmp_path):
    for name in ("a", "b"):
        unlearn(config(output=str(tmp_path / name)))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    unlearn(config(output=str(tmp_path / "c"), seed=1))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_stopping_once_forgotten(config):
    report = unlearn(config(stop_at_forget_probability=1.0, evaluate_every=2, force=True))
    assert [entry["step"] for entry in report["evaluations"]] == [2]
    assert len(report["steps"]) == 2


def test_where_limits_the_combiner_to_some_parameters(config, tmp_path):
    plain = unlearn(config(output=str(tmp_path / "sum"), combiner="sum", max_steps=1))
    nowhere = unlearn(config(output=str(tmp_path / "part"), where=r"embed_tokens", max_steps=1))
    unlearn(config(output=str(tmp_path / "all"), max_steps=1))
    assert nowhere["config"]["where"] == "embed_tokens"
    assert plain["steps"][0]["forget_loss"] == nowhere["steps"][0]["forget_loss"]
    assert not same(weights(tmp_path / "part"), weights(tmp_path / "all"))
    assert not same(weights(tmp_path / "part"), weights(tmp_path / "sum"))
    with pytest.raises(rf.RetainFirstError, match=r"where '\(' is no regular expression"):
        config(where="(")


def test_a_weight_that_changes(config, tmp_path):
    options = {"combiner": "sum", "max_steps": 3}
    constant = unlearn(config(output=str(tmp_path / "a"), gamma="2", **options))
    unlearn(config(output=str(tmp_path / "b"), gamma=2.0, **options))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    changing = unlearn(config(output=str(tmp_path / "c"), gamma="2:0:2", **options))
    assert changing["config"]["gamma"] == "2:0:2"
    assert changing["steps"][0] == constant["steps"][0]
    last = changing["steps"][2]["geometry"]  # gamma is 0: the update is the retain gradient
    assert last["norm_update"] == pytest.approx(last["norm_retain"], rel=1e-6)


@pytest.mark.parametrize(
    ("values", "target", "text"),
    [
        ((0.9, 0.5), 0.2, "the stop target was missed: forget_probability is 0.500, above 0.2"),
        ((0.9, 0.85), None, "forgetting is not done: forget_probability was 0.900 and is 0.850"),
        ((0.9, 0.1), 0.2, None),
        ((0.9, 0.7), None, None),
    ],
)
def test_a_run_says_whether_it_worked(config, tmp_path, values, target, text):
    settings = config(stop_at_forget_probability=target, max_steps=2)
    report = unlearn(settings, measure=lambda _: Measures(*values))
    assert [text in warning for warning in report["warnings"]] == ([] if text is None else [True])
    assert ("**Warning:**" in (tmp_path / "out" / "README.md").read_text()) == (text is not None)


def test_progress_is_printed_where_there_is_no_terminal(config, capfd):
    unlearn(config())
    written = capfd.readouterr().err.splitlines()
    stages = (
        "loading the rows and the model",
        "preparing the training",
        "measuring before",
        "measuring after",
        "writing the results",
    )
    assert [line for line in written if line.removeprefix("unlearning: ") in stages] == [
        f"unlearning: {one}" for one in stages
    ]
    lines = [line for line in written if "step" in line]
    assert lines[-1].startswith("unlearning: step 6/6, forget ")
    assert lines[-1].endswith("0:00:00 left")


def test_bfloat16_needs_no_device_where_there_is_no_accelerator(config):
    if torch.cuda.is_available():
        pytest.skip("this machine has an accelerator")
    assert len(unlearn(config(dtype="bfloat16", device="auto", max_steps=1))["steps"]) == 1


def test_bfloat16_computes_in_it_and_keeps_float32_weights(config, tmp_path):
    plain = unlearn(config(output=str(tmp_path / "a"), learning_rate=1e-5))
    mixed = unlearn(config(output=str(tmp_path / "b"), learning_rate=1e-5, dtype="bfloat16"))
    assert plain["steps"][0]["forget_loss"] != mixed["steps"][0]["forget_loss"]
    assert plain["steps"][0]["forget_loss"] == pytest.approx(mixed["steps"][0]["forget_loss"], rel=0.05)
    before, after = load_model(str(config().model)).state_dict(), load_model(str(tmp_path / "b")).state_dict()
    changed = sum((before[name] != after[name]).sum().item() for name in before)
    # AdamW moves every weight that has a gradient by about the learning rate; bfloat16 weights would round most of it away.
    assert changed > 0.5 * sum(tensor.numel() for tensor in before.values())


def test_the_reference_is_computed_in_the_precision_of_the_steps(config):
    """Rows by themselves have no padding, so that both passes give the same bits and the first loss is 2/beta log 2."""
    report = unlearn(config(objective="npo", dtype="bfloat16", batch_size=1, max_steps=1))
    assert report["steps"][0]["forget_loss"] == pytest.approx(2 / 0.1 * math.log(2), rel=1e-6)


def test_the_trainers_own_logs_are_kept(config):
    settings = config(report_to="tensorboard", max_steps=1)
    unlearn(settings)
    assert list((Path(settings.output) / "runs").rglob("events.out.tfevents*"))
