"""Fine-tuning on rows so that there is something to unlearn."""

import json
import signal

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from retainfirst import objectives
from retainfirst.errors import RetainFirstError
from retainfirst_lab.tasks import implant
from retainfirst_lab.tasks.implant import implant_rows

pytest.importorskip("transformers")


@pytest.fixture
def rows(tmp_path):
    paths = [tmp_path / "forget.jsonl", tmp_path / "retain.jsonl"]
    for path, rows in zip(
        paths,
        ([{"question": "who?", "answer": "then"}], [{"text": "the one"}, {"prompt": "on", "completion": " that"}]),
        strict=True,
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def test_rows_are_learned_and_the_model_is_saved(tiny_model_dir, rows, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    losses = implant_rows(tiny_model_dir, rows, tmp_path / "out", epochs=12, learning_rate=1e-2, batch_size=2)
    assert len(losses) == 12
    assert losses[-1] < 0.5 * losses[0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = torch.tensor([tokenizer("on that", add_special_tokens=False)["input_ids"]])
    before = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss < before(input_ids=ids, labels=ids).loss


def test_same_seed_same_model(tiny_model_dir, rows, tmp_path):
    losses = [
        implant_rows(tiny_model_dir, rows, tmp_path / str(n), epochs=2, batch_size=1, seed=seed)
        for n, seed in enumerate((1, 1, 2))
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_numbers_out_of_range(tiny_model_dir, rows, tmp_path, options, text):
    with pytest.raises(RetainFirstError, match=text):
        implant_rows(tiny_model_dir, rows, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_to_implant(tiny_model_dir, tmp_path):
    with pytest.raises(RetainFirstError, match="at least one source"):
        implant_rows(tiny_model_dir, [], tmp_path / "out")


def test_output_that_is_not_free(tiny_model_dir, rows, tmp_path):
    with pytest.raises(RetainFirstError, match="not empty"):
        implant_rows(tiny_model_dir, rows, tmp_path)


def test_interrupted_run_leaves_nothing(tiny_model_dir, rows, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        implant_rows(tiny_model_dir, rows, tmp_path / "out", epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forget.jsonl", "retain.jsonl"]


def test_teaching_resumes_from_its_checkpoint(tiny_model_dir, rows, tmp_path, monkeypatch):
    options = {"epochs": 3, "batch_size": 1, "learning_rate": 1e-2}
    whole = implant_rows(tiny_model_dir, rows, tmp_path / "whole", **options)
    save, saved = implant.save_checkpoint, []

    def interrupt(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(implant, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        implant_rows(tiny_model_dir, rows, tmp_path / "out", checkpoint=tmp_path / "state.pt", **options)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert implant_rows(tiny_model_dir, rows, tmp_path / "out", checkpoint=tmp_path / "state.pt", **options) == whole
    assert not (tmp_path / "state.pt").exists()
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture
def command(tiny_model_dir, rows, tmp_path):
    """Call the command."""

    def call(*arguments, output="out"):
        app = typer.Typer()
        app.command()(implant.main)
        options = ["--model", tiny_model_dir, "--output", tmp_path / output, "--epochs", "3", "--batch-size", "1",
                   "--learning-rate", "1e-2"]  # fmt: skip
        for path in rows:
            options += ["--data", path]
        return CliRunner().invoke(app, list(map(str, [*options, *arguments])))

    return call


@pytest.fixture
def signal_at_step(monkeypatch):
    """Raise a signal in the forward pass of a step."""

    def raise_at(number, step):
        steps = []

        def loss(*arguments):
            steps.append(1)
            if len(steps) == step:
                signal.raise_signal(number)
            return nll(*arguments)

        nll = objectives.nll
        monkeypatch.setattr(implant, "nll", loss)

    return raise_at


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [2, 3, 5])  # in an epoch, and at its end
def test_the_command_goes_on_after_a_signal_bit_for_bit(command, signal_at_step, tmp_path, number, step):
    before = signal.getsignal(number)
    whole = command(output="whole")
    assert whole.exit_code == 0, whole.output
    assert "teaching, step 0/" in whole.stderr, "progress where there is no terminal"
    signal_at_step(number, step)
    stopped = command()
    assert stopped.exit_code == 130
    assert "go on with --resume" in stopped.output
    assert signal.getsignal(number) is before
    assert not (tmp_path / "out").exists()
    refused = command()
    assert refused.exit_code == 2
    assert "out.unfinished is of an unfinished run; add --resume" in refused.output
    other = command("--resume", "--seed", "1")
    assert other.exit_code == 2
    assert "other settings: seed (was 0, is 1)" in other.output
    resumed = command("--resume")
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout.split(";")[0] == whole.stdout.split(";")[0]
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (tmp_path / "out.unfinished").exists()


def test_a_failure_to_write_keeps_the_training(command, tmp_path, monkeypatch):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("transformers.PreTrainedModel.save_pretrained", no_space)
        failed = command()
    assert failed.exit_code == 2
    assert "No space left on device. The training is kept in" in failed.output
    steps = []
    monkeypatch.setattr(implant, "nll", steps.append)
    assert command("--resume").exit_code == 0
    assert not steps
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_nothing_to_resume_and_a_damaged_checkpoint(command, tmp_path):
    absent = command("--resume")
    assert absent.exit_code == 2
    assert "nothing to resume" in absent.output
    (tmp_path / "out.unfinished").write_text("cut short")
    damaged = command("--resume")
    assert damaged.exit_code == 2
    assert "is damaged; remove it and start again" in damaged.output
