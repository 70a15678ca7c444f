"""A whole run from files to an output folder, on a tiny model."""

from __future__ import annotations

import json
import re
import signal
import threading
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import retainfirst as rf
from retainfirst.geometry import FIELDS
from retainfirst.models import load_model, load_tokenizer
from retainfirst.unlearning import Interrupted, UnlearnConfig, unlearn


@pytest.fixture(autouse=True)
def _old_checkpoints_can_be_read(monkeypatch):
    if metadata.version("transformers") < "4.49":
        # These versions read their own random states with pickle, which torch refuses from 2.6 on unless told otherwise.
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


@pytest.fixture
def curves() -> None:
    """Asks for the figure of a run."""


@pytest.fixture(autouse=True)
def _no_curves(request, monkeypatch):
    """Draws no figure unless a test asks for it: drawing takes longer than training a tiny model."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr("retainfirst.unlearning._run.write_curves", lambda *_: None)


@pytest.fixture
def files(tmp_path):
    rows = {
        "forget": [{"question": f"who is {i}", "answer": f"the {'abcd'[i]} one"} for i in range(4)],
        "retain": [{"prompt": f"{i} and", "completion": f" {i + 1}"} for i in range(6)],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


@pytest.fixture
def config(files, tiny_model_dir, tmp_path):
    def make(**options):
        defaults = {
            "model": str(tiny_model_dir), "output": str(tmp_path / "out"), "objective": "ga", "learning_rate": 1e-2,
            "batch_size": 2, "max_steps": 6, "device": "cpu", **files,
        }  # fmt: skip
        return UnlearnConfig(**{**defaults, **options})

    return make


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


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


class InterruptsAt:
    """Measures nothing; presses Ctrl-C at one of its calls during training."""

    name = "probability"

    def __init__(self, call):
        self.calls, self.call = 0, call

    def forget(self, _):
        self.calls += 1
        if self.calls == self.call:
            signal.raise_signal(signal.SIGINT)
        return 0.5

    def retain(self, _):
        return 0.5


@pytest.mark.parametrize(
    "combiner", [{}, {"combiner": "gru", "combiner_options": {"average": 0.9}}], ids=["sago", "gru"]
)
def test_interrupted_and_resumed_is_the_uninterrupted_run_bit_for_bit(config, tmp_path, combiner):
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1, **combiner}
    whole = unlearn(config(output=str(tmp_path / "whole"), **options), measure=lambda _: InterruptsAt(-1))
    settings = config(output=str(tmp_path / "part"), **options)
    with pytest.raises(Interrupted, match="--resume"):
        unlearn(settings, measure=lambda _: InterruptsAt(4))  # one call before training, then one a step
    assert [path.name for path in Path(settings.output).iterdir()] == [".unfinished"]
    with pytest.raises(rf.RetainFirstError, match="unfinished run; add --resume"):
        unlearn(settings)
    resumed = unlearn(config(output=str(tmp_path / "part"), resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))
    assert resumed["steps"] == whole["steps"]
    assert not (tmp_path / "part" / ".unfinished").exists()


@pytest.mark.parametrize("stop", [None, 0.7])
def test_a_run_that_failed_after_its_last_step_is_only_finished(config, tmp_path, monkeypatch, stop):
    options = {"save_every": 2, "stop_at_forget_probability": stop, "evaluate_every": 4, "force": True}
    whole = unlearn(config(output=str(tmp_path / "whole"), **options), measure=lambda _: InterruptsAt(-1))
    with monkeypatch.context() as broken:
        broken.setattr("retainfirst.unlearning._run.write_curves", _no_space)
        with pytest.raises(rf.RetainFirstError, match="No space left"):
            unlearn(config(output=str(tmp_path / "part"), **options), measure=lambda _: InterruptsAt(-1))
    assert [path.name for path in (tmp_path / "part").iterdir()] == [".unfinished"]
    resumed = unlearn(config(output=str(tmp_path / "part"), resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert resumed["steps"] == whole["steps"]
    assert len(whole["steps"]) == (6 if stop is None else 4)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_interrupted_before_the_first_step_leaves_nothing(config):
    settings = config()
    with pytest.raises(Interrupted, match="nothing was written"):
        unlearn(settings, measure=_interrupts_twice)
    assert not Path(settings.output).exists()


def _interrupts_twice(_):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("the second Ctrl-C must interrupt at once")


def test_a_failure_leaves_the_folder_as_it_was(config, tmp_path):
    (tmp_path / "empty").mkdir()

    class Fails(InterruptsAt):
        def forget(self, _):
            raise RuntimeError("boom")

    for output, remains in ((tmp_path / "new", False), (tmp_path / "empty", True)):
        with pytest.raises(RuntimeError, match="boom"):
            unlearn(config(output=str(output)), measure=lambda _: Fails(0))
        assert output.exists() == remains
        assert not remains or not any(output.iterdir())


def test_resuming_needs_the_same_settings_and_the_same_data(config, tmp_path, files):
    settings = config(stop_at_forget_probability=0.0, evaluate_every=1)
    with pytest.raises(Interrupted):
        unlearn(settings, measure=lambda _: InterruptsAt(3))
    again = {"stop_at_forget_probability": 0.0, "evaluate_every": 1, "resume": True}
    with pytest.raises(rf.RetainFirstError, match=r"learning_rate \(was 0.01, is 0.1\)"):
        unlearn(config(learning_rate=0.1, **again))
    Path(files["forget"]).write_text(json.dumps({"text": "something else"}) + "\n")
    with pytest.raises(rf.RetainFirstError, match="forget"):
        unlearn(config(**again))


def test_a_half_written_checkpoint_is_passed_over(config):
    settings = config(stop_at_forget_probability=0.0, evaluate_every=1)
    with pytest.raises(Interrupted):
        unlearn(settings, measure=lambda _: InterruptsAt(3))
    broken = Path(settings.output) / ".unfinished" / "checkpoint-5"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_step": 5, "log_his')
    resumed = unlearn(
        config(stop_at_forget_probability=0.0, evaluate_every=1, resume=True), measure=lambda _: InterruptsAt(-1)
    )
    assert len(resumed["steps"]) == 6


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


def _saved(model, folder):
    from tiny import tiny_tokenizer

    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


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
        unlearn(config(model=_saved(encoder, tmp_path / "bert")))


def test_rows_longer_than_the_models_positions_are_refused(config, tmp_path):
    transformers = pytest.importorskip("transformers")
    short = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=128, n_positions=4, n_embd=16, n_layer=1, n_head=2)
    )
    folder = _saved(short, tmp_path / "gpt2")
    with pytest.raises(rf.RetainFirstError, match=r"line 1: \d+ tokens, but the model has 4 positions.*--max-length 4"):
        unlearn(config(model=folder))


def test_a_template_with_a_clock_sees_the_runs_start_also_when_resumed(config, tmp_path, monkeypatch):
    from datetime import datetime

    from retainfirst.unlearning import _run

    seen = []

    def load(*args, now, **kwargs):
        seen.append(now)
        return load_pairs(*args, now=now, **kwargs)

    load_pairs = _run.load_pairs
    monkeypatch.setattr(_run, "load_pairs", load)
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1}
    before = datetime.now().replace(microsecond=0)
    with pytest.raises(Interrupted):
        unlearn(config(**options), measure=lambda _: InterruptsAt(3))
    settings_file = tmp_path / "out" / ".unfinished" / "settings.json"
    content = json.loads(settings_file.read_text())
    assert before <= datetime.fromisoformat(content["started"]) <= datetime.now()
    settings_file.write_text(json.dumps(content | {"started": "2020-02-29T12:00:00"}))
    unlearn(config(resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert seen == [datetime.fromisoformat(content["started"]), datetime(2020, 2, 29, 12)]


class Terminates(InterruptsAt):
    """Sends SIGTERM, as a batch system does."""

    def forget(self, _):
        self.calls += 1
        if self.calls == self.call:
            signal.raise_signal(signal.SIGTERM)
        return 0.5


def test_sigterm_saves_and_ends_as_ctrl_c_does(config, tmp_path):
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1}
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="--resume"):
        unlearn(config(**options), measure=lambda _: Terminates(3))
    assert [path.name for path in (tmp_path / "out" / ".unfinished").glob("checkpoint-*")] == ["checkpoint-3"]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_run_in_another_thread(config, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(unlearn(config(max_steps=2))))
    thread.start()
    thread.join()
    assert len(found[0]["steps"]) == 2


def test_the_callers_handlers_are_back_after_a_run(config, monkeypatch):
    handlers = {number: lambda *_: None for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        unlearn(config(max_steps=1))
        assert {number: signal.getsignal(number) for number in handlers} == handlers
        with pytest.raises(rf.RetainFirstError, match="not empty"):
            unlearn(config())
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_failure_to_write_keeps_the_last_step_and_says_how_to_go_on(config, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr("retainfirst.unlearning._run.write_curves", _no_space)
        with pytest.raises(
            rf.RetainFirstError, match=r"No space left on device\. When that is mended, go on with --resume"
        ):
            unlearn(config())
    assert [path.name for path in (tmp_path / "out" / ".unfinished").glob("checkpoint-*")] == ["checkpoint-6"]


def test_resuming_names_the_checkpoint_that_was_cut_short(config, caplog):
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1}
    with pytest.raises(Interrupted):
        unlearn(config(**options), measure=lambda _: InterruptsAt(3))
    broken = Path(config().output) / ".unfinished" / "checkpoint-5"
    broken.mkdir()
    unlearn(config(resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert f"{broken} is incomplete" in caplog.text
    assert "Resuming from step 3." in caplog.text


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


class Measures:
    """Gives the numbers of a list, one a call, and then the last one."""

    name = "probability"

    def __init__(self, *values):
        self.values = list(values)

    def forget(self, _):
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]

    def retain(self, _):
        return 0.5


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


def test_a_target_that_is_met_before_training_is_refused(config, tmp_path):
    with pytest.raises(rf.RetainFirstError, match=r"measure 0\.100, which is not above .* 0\.3.*--force"):
        unlearn(config(stop_at_forget_probability=0.3), measure=lambda _: Measures(0.1))
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_know_the_forget_rows(config, tmp_path):
    class Unknown(Measures):
        def retain(self, _):
            return 0.9

    with pytest.raises(
        rf.RetainFirstError, match=r"measure 0\.080, and the retain rows 0\.900: the model does not know .*--force"
    ):
        unlearn(config(), measure=lambda _: Unknown(0.08))
    assert not (tmp_path / "out").exists()
    forced = unlearn(config(force=True, max_steps=1), measure=lambda _: Unknown(0.08, 0.01))
    assert ["the model does not know what it is to forget" in text for text in forced["warnings"]] == [True]
    assert "the model does not know what it is to forget" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_that_knows_nothing_is_reported(config):
    report = unlearn(config(max_steps=1))
    assert any("hardly more than a guess at each token" in text for text in report["warnings"])


def test_the_same_rows_to_forget_and_to_retain(config, files, tmp_path):
    with pytest.raises(rf.RetainFirstError, match="4 of 4 rows of .*forget.jsonl are in .* too"):
        unlearn(config(retain=files["forget"]))
    forced = unlearn(config(retain=files["forget"], force=True, max_steps=1))
    assert any("4 of 4 rows" in warning for warning in forced["warnings"])
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(Path(files["retain"]).read_text() + Path(files["forget"]).read_text().splitlines()[0] + "\n")
    partly = unlearn(config(retain=str(mixed), max_steps=1, output=str(tmp_path / "b")))
    assert any("1 of 4 rows" in warning for warning in partly["warnings"])


def test_progress_is_printed_where_there_is_no_terminal(config, capfd):
    unlearn(config())
    lines = [line for line in capfd.readouterr().err.splitlines() if "step" in line]
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


def test_a_run_that_breaks_stops_with_an_error_and_leaves_no_model(config, tmp_path):
    with pytest.raises(rf.RetainFirstError, match=r"step \d+: .*(nan|inf)"):
        unlearn(config(learning_rate=1e30, max_grad_norm=0.0, save_every=0))
    assert not (tmp_path / "out").exists()


def test_the_trainers_own_logs_are_kept(config):
    settings = config(report_to="tensorboard", max_steps=1)
    unlearn(settings)
    assert list((Path(settings.output) / "runs").rglob("events.out.tfevents*"))


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


def test_a_failure_leaves_what_others_put_beside_it(config, tmp_path):
    class Fails(InterruptsAt):
        def forget(self, _):
            (tmp_path / "runs" / "other").mkdir()
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        unlearn(config(output=str(tmp_path / "runs" / "mine")), measure=lambda _: Fails(0))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_bad_data_leaves_nothing(config, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(rf.RetainFirstError, match=r"bad.jsonl"):
        unlearn(config(forget=str(tmp_path / "bad.jsonl")))
    assert not (tmp_path / "out").exists()
