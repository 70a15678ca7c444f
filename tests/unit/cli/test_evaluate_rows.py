"""``retainfirst evaluate --forget``: the command on tiny models, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest

from retainfirst.cli import main
from tiny import save_tiny, tiny_llama, tiny_tokenizer

pytest.importorskip("rouge_score")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two models with one tokenizer, and files of rows."""
    made = tmp_path_factory.mktemp("evaluate")
    save_tiny(made / "before", seed=1)
    save_tiny(made / "after")
    for name, count in (("forget", 4), ("retain", 3), ("held_out", 3), ("reworded", 4)):
        rows = [{"question": f"{name} {i}", "answer": f"the {i}"} for i in range(count)]
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "texts.jsonl").write_text('{"text": "the one"}\n{"text": "no one"}\n')
    return made


@pytest.fixture
def run(folder, monkeypatch, capsys):
    def call(*arguments, model="after") -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        line = ["retainfirst", "evaluate", "--model", model, "--max-new-tokens", "4", "--device", "cpu", *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, line)))
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capsys.readouterr()
        return int(leaving.value.code or 0), captured.out, captured.err

    return call


ALL = ("--before", "before", "--forget", "forget.jsonl", "--retain", "retain.jsonl", "--held-out", "held_out.jsonl")


def test_rows_need_no_lm_eval(run, monkeypatch):
    for name in ("lm_eval", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = run("--forget", "forget.jsonl", "--retain", "retain.jsonl")
    assert (code, err.count("error")) == (0, 0)
    assert "ROUGE-L" in out


def test_a_table_verdicts_and_a_report(run, tmp_path):
    code, out, _ = run(
        *ALL, "--paraphrased", "reworded.jsonl", "--quantize", 4, "--quantize", 8, "--relearn", 2, "--relearn-on",
        "held_out.jsonl", "--prompt-attacks", "--report", tmp_path / "new" / "report", "--max-length", 128,
    )  # fmt: skip
    assert code == 0
    for text in (
        "before",
        "after",
        "4 bits, groups of 64",
        "8 bits, channels",
        "relearned, 2 steps",
        "tuned on unrelated rows, 2 steps",
        "prompt templates",
    ):
        assert text in out
    for text in (
        "paraphrased",
        "ROUGE-L recall",
        "Is it forgotten?",
        "Is the rest retained?",
        "membership by Min-K%, AUC",
    ):
        assert text in out
    data = json.loads((tmp_path / "new" / "report" / "evaluation.json").read_text())
    assert data["sets"]["forget"] == {"source": "forget.jsonl", "rows": 4, "truncated": 0, "dropped": 0}
    assert len(data["run"]["model sha256"]) == 64
    assert data["run"]["model sha256"] != data["run"]["before sha256"]
    assert data["run"]["settings"]["relearn"] == 2
    assert set(data["sets"]) == {"forget", "retain", "held_out", "paraphrased"}
    assert "torch" in data["run"]["versions"]
    assert (tmp_path / "new" / "report" / "evaluation.html").read_text().startswith("<!doctype html>")


def test_json_and_limit(run):
    code, out, _ = run("--forget", "forget.jsonl", "--limit", 2, "--json")
    assert code == 0
    data = json.loads(out)
    assert [one["name"] for one in data["conditions"]] == ["after"]
    assert data["sets"]["forget"]["rows"] == 2
    assert data["scores"] == []
    assert data["verdicts"][0]["answer"] == "not known"


def test_rows_and_tasks_together(run, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "q", "choices": ["a", "b"], "answer": 0}\n')
    code, out, _ = run(
        "--forget", "forget.jsonl", "--before", "before", "--tasks", "retainfirst_arc_easy", "--data-dir", tmp_path,
        "--batch-size", "auto", "--json",
    )  # fmt: skip
    assert code == 0
    data = json.loads(out)
    assert {one["metric"] for one in data["scores"]} == {"acc", "acc_norm"}
    assert [one["task"] for one in data["scores_before"]] == ["retainfirst_arc_easy"] * 2


def test_tasks_before_and_after(run, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "q", "choices": ["a", "b"], "answer": 0}\n' * 3)
    code, out, _ = run("--before", "before", "--tasks", "retainfirst_arc_easy", "--data-dir", tmp_path)
    assert code == 0
    assert "kept" in out


def test_texts_are_measured_as_far_as_they_go(run):
    code, out, _ = run("--forget", "texts.jsonl", "--held-out", "held_out.jsonl", "--json")
    assert code == 0
    skipped = {(one["metric"], one["set"]) for one in json.loads(out)["skipped"]}
    assert {("rouge_l_recall", "forget"), ("mia_loss", "forget")} <= skipped


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--quantize", "4"), "--quantize needs --forget"),
        (("--report", "r"), "--report needs --forget"),
        (("--forget", "forget.jsonl", "--quantize", "1"), "from 2 to 8, or nf4; found '1'"),
        (("--forget", "forget.jsonl", "--quantize", "fp4"), "from 2 to 8, or nf4; found 'fp4'"),
        (("--forget", "forget.jsonl", "--relearn-on", "retain.jsonl"), "--relearn-on needs --relearn"),
        (
            ("--forget", "forget.jsonl", "--relearn", "1", "--relearn-on", "forget.jsonl"),
            "forget.jsonl: 4 of 4 rows are forget rows, so that they are not unrelated",
        ),
        (("--forget", "forget.jsonl", "--batch-size", "many"), "--batch-size needs a whole number"),
        (("--forget", "absent.jsonl"), "absent.jsonl does not exist"),
        (("--forget", "forget.jsonl", "--report", "forget.jsonl"), "--report forget.jsonl cannot be written"),
        (("--forget", "forget.jsonl", "--relearn", "2", "--limit", "1"), "at least 2 forget rows"),
        (("--forget", "forget.jsonl", "--relearn", "2", "--relearn-rate", "0"), "learning_rate must be above 0"),
        (("--forget", "forget.jsonl", "--max-length", "4"), "forget.jsonl: none of 4 rows has a token"),
        (
            ("--forget", "forget.jsonl", "--held-out", "forget.jsonl"),
            "rows are forget rows, so that the model was trained on them",
        ),
        (("--forget", "forget.jsonl", "--before", "nowhere/at/all"), "no such folder: 'nowhere/at/all'"),
    ],
)
def test_bad_use(run, arguments, text):
    code, _, err = run(*arguments)
    assert code == 2
    assert text in err


def test_a_quantised_model_is_refused_before_it_is_measured(run, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedModel.is_quantized", True, raising=False)
    monkeypatch.setattr("retainfirst.evaluation._files.evaluate", None)
    for attack in (("--quantize", 4), ("--relearn", 2)):
        code, _, err = run("--forget", "forget.jsonl", *attack)
        assert code == 2
        assert "'after' is quantised, and neither --quantize nor --relearn can change such weights" in err


def test_nf4_is_refused_before_the_model_is_loaded(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("retainfirst.cli._evaluate.load_model", None)
    code, _, err = run("--forget", "forget.jsonl", "--quantize", "nf4")
    assert code == 2
    assert "pip install 'retainfirst[quantize]'" in err


def test_nf4(run):
    pytest.importorskip("bitsandbytes")
    code, out, _ = run("--forget", "forget.jsonl", "--quantize", "nf4", "--json")
    assert code == 0
    assert json.loads(out)["conditions"][1]["name"] == "nf4, blocks of 64"


def test_another_tokenizer(run, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["another"])
    tiny_llama(seed=2).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    code, _, err = run("--forget", "forget.jsonl", "--before", tmp_path / "other")
    assert code == 2
    assert "its tokenizer is another one (111 tokens, the model's has 110)" in err


def test_a_model_that_is_not_causal(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=110, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    code, _, err = run("--forget", "forget.jsonl", model=tmp_path / "bert")
    assert code == 2
    assert "(BertLMHeadModel) is not causal" in err
    code, _, err = run("--forget", "forget.jsonl", "--before", tmp_path / "bert")
    assert code == 2
    assert "'--before' (BertLMHeadModel) is not causal" in err


def test_a_model_with_fewer_embeddings_than_tokens(run, tmp_path):
    small = tiny_llama()
    small.resize_token_embeddings(40)
    small.save_pretrained(tmp_path / "small")
    tiny_tokenizer().save_pretrained(tmp_path / "small")
    for arguments in ({"model": tmp_path / "small"}, {}):
        before = () if arguments else ("--before", tmp_path / "small")
        code, _, err = run("--forget", "forget.jsonl", *before, **arguments)
        assert code == 2
        assert "but the model has 40 embeddings" in err


def test_rows_beyond_the_models_positions(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=110, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "short")
    tiny_tokenizer().save_pretrained(tmp_path / "short")
    code, _, err = run("--forget", "forget.jsonl", model=tmp_path / "short")
    assert code == 2
    assert "the model has 16 positions" in err


def test_no_pad_token(run, tmp_path):
    save_tiny(tmp_path / "bare", pad=False)
    code, _, err = run("--forget", "forget.jsonl", model=tmp_path / "bare")
    assert code == 2
    assert "--pad-token '<eos>'" in err
    code, _, _ = run("--forget", "forget.jsonl", "--pad-token", "<eos>", "--json", model=tmp_path / "bare")
    assert code == 0


def test_accuracies_are_kept_by_model_and_data(run, tmp_path, monkeypatch):
    from retainfirst_lab.tasks import multiple_choice

    data = tmp_path / "test.jsonl"
    data.write_text('{"question": "q", "choices": ["a", "b"], "answer": 0}\n' * 3)
    asked = []
    real = multiple_choice.score
    monkeypatch.setattr(multiple_choice, "score", lambda *some, **how: asked.append(some[2]) or real(*some, **how))

    def scores(*more, model="after"):
        arguments = ("--tasks", "retainfirst_arc_easy", "--data-dir", tmp_path, "--cache", tmp_path / "kept", "--json")
        code, out, _ = run(*arguments, *more, model=model)
        assert code == 0
        return json.loads(out)["scores"]

    first = scores()
    assert scores() == first
    assert len(asked) == 1
    for more in ({"model": "before"}, {}):
        if not more:
            data.write_text(data.read_text().replace('"answer": 0', '"answer": 1'))
        scores(**more)
    assert len(asked) == 3
    scores("--limit", 1)
    assert len(asked) == 4
    for file in (tmp_path / "kept").iterdir():
        file.write_text("cut sho")
    scores()
    assert len(asked) == 5, "a damaged file is measured again"
