"""Fine-tuning on rows so that there is something to unlearn."""

import json

import pytest
import torch

from retainfirst.errors import RetainFirstError
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
    from safetensors.torch import load_file

    from retainfirst_lab import checkpoint

    options = {"epochs": 3, "batch_size": 1, "learning_rate": 1e-2}
    whole = implant_rows(tiny_model_dir, rows, tmp_path / "whole", **options)
    save, saved = checkpoint.save_checkpoint, []

    def interrupt(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        implant_rows(tiny_model_dir, rows, tmp_path / "out", checkpoint=tmp_path / "state.pt", **options)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert implant_rows(tiny_model_dir, rows, tmp_path / "out", checkpoint=tmp_path / "state.pt", **options) == whole
    assert not (tmp_path / "state.pt").exists()
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_checkpoint_of_another_training_is_not_used(tiny_model_dir, rows, tmp_path, monkeypatch, caplog):
    from retainfirst_lab import checkpoint

    options = {"epochs": 2, "batch_size": 1, "learning_rate": 1e-2}
    whole = implant_rows(tiny_model_dir, rows[:1], tmp_path / "whole", **options)
    save = checkpoint.save_checkpoint

    def interrupt(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        implant_rows(tiny_model_dir, rows, tmp_path / "out", checkpoint=tmp_path / "state.pt", **options)
    monkeypatch.undo()
    found = implant_rows(tiny_model_dir, rows[:1], tmp_path / "out", checkpoint=tmp_path / "state.pt", **options)
    assert found == whole
    assert "state.pt is a checkpoint of another training; this one begins anew" in caplog.text
