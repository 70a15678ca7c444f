"""The tier on a language model, with a tiny one in its place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst.models import load_model, load_tokenizer
from retainfirst_lab.reproduce import SmolTier, reproduce, workers
from retainfirst_lab.reproduce import smollm2_testbed as module
from retainfirst_lab.reproduce.smollm2_rows import read_rows
from retainfirst_lab.reproduce.smollm2_testbed import SmolSizes, SmolTestbed
from retainfirst_lab.tasks.multiple_choice import answered_right, score

pytest.importorskip("lm_eval")
pytest.importorskip("matplotlib")


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """TOFU and ARC, small; the longest rows come first, so that they must not be taken."""
    for name in ("forget10", "retain", "real_authors", "world_facts"):
        rows = [
            {
                "question": f"{name[0]}{n}" + "?" * (90 - n),
                "paraphrased_question": f"{n}{name[0]}?",
                "answer": f"a{n % 7}",
                "perturbed_answer": [f"{letter}{n % 7}" for letter in "bcdef"],
            }
            for n in range(90)
        ]
        write_rows(tmp_path / "data" / "tofu" / f"{name}_perturbed.jsonl", rows)
    arc = [{"question": f"q{n}", "choices": ["a", "b"], "answer": n % 2} for n in range(30)]
    write_rows(tmp_path / "data" / "arc_easy" / "test.jsonl", arc)
    return tmp_path / "data"


@pytest.mark.slow
def test_a_whole_run(tiny_model_dir, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(SmolTier, "sizes", replace(SmolTier(minutes=20.0).sizes, max_steps=6))
    tier = SmolTier(minutes=20.0, model=str(tiny_model_dir), data_dir=data_dir)
    results = reproduce(tier, tmp_path / "out", only=["npo", "sum", "sago"])
    workers._testbed.cache_clear()
    assert (len(results["cells"]), results["planned"]) == (2, 2)
    for cell in results["cells"]:
        assert set(cell["path"][0]) == {"step", "seconds", "forget", "covered", "unrelated", "held_out"}
        assert set(cell["lm_eval"]["end"]) == {"forget_paraphrased", "world_facts", "real_authors", "arc_easy"}
        assert set(cell["lm_eval"]["target"]) == set(cell["lm_eval"]["end"])
        assert len(cell["relearning"]["accuracy"]) == 3
    assert not list((tmp_path / "out").rglob("*.pt")), "checkpoints go when they are no longer needed"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "arc easy" in text
    assert "NPO + GD" in text


def test_the_taught_rows_and_the_questions(tiny_model_dir, data_dir, tmp_path, monkeypatch):
    taught = []
    monkeypatch.setattr(module, "implant_rows", lambda model, data, *_, **__: taught.append(Path(data[0]).read_text()))
    monkeypatch.setattr(module, "load_tokenizer", lambda name: name.endswith("taught") and pytest.fail("far enough"))
    asked = []

    def right(self, model, tokenizer, task, rows):
        asked.extend((task, row["question"]) for row in rows)
        return [row["question"].count("?") % 3 == 0 for row in rows]

    monkeypatch.setattr(SmolTestbed, "_right", right)
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        SmolTestbed(tmp_path, SmolSizes(forget_rows=6, questions=3, more_questions=2), 2, str(tiny_model_dir), data_dir)
    rows = [json.loads(line) for line in taught[0].splitlines()]
    assert len(rows) == 6 + 12 + 6
    assert len({row["question"] for row in rows}) == len(rows)
    assert max(len(row["question"]) for row in rows) < 40, "the shortest rows"
    assert not [row for row in rows if row["question"].count("?") % 3 == 0], "what it knows untaught is not taught"
    assert len(asked) == 32 + 32, "no more of each are asked than needed"
    questions = {
        path.relative_to(tmp_path / "questions").as_posix(): [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in (tmp_path / "questions").rglob("*.jsonl")
    }
    known = {row["question"]: place for place, row in enumerate(rows)}
    places = {name: [known[row["question"]] for row in questions[name]] for name in (
        "path/forget10_perturbed.jsonl", "path/retain_perturbed.jsonl", "held_out/retain_perturbed.jsonl",
    )}  # fmt: skip
    # Forget rows come first, then the covered ones, then those held out; the first two forget rows are for relearning.
    assert places["path/forget10_perturbed.jsonl"] == [2, 3, 4]
    assert places["path/retain_perturbed.jsonl"] == [6, 7, 8]
    assert places["held_out/retain_perturbed.jsonl"] == [18, 19, 20]
    for row in questions["path/forget10_perturbed.jsonl"]:
        assert len(row["perturbed_answer"]) == 3
    asked = {row["question"] for row in questions["path/world_facts_perturbed.jsonl"]}
    assert not asked & {row["question"] for row in questions["end/world_facts_perturbed.jsonl"]}


def test_the_choice_is_made_once(tiny_model_dir, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(SmolTestbed, "_right", lambda *arguments: [False] * len(arguments[-1]))
    first = SmolTestbed(tmp_path, SmolSizes(forget_rows=3, epochs=1), 1, str(tiny_model_dir), data_dir)
    monkeypatch.setattr(SmolTestbed, "_right", lambda *_: pytest.fail("asked again"))
    second = SmolTestbed(tmp_path, SmolSizes(forget_rows=3, epochs=1), 1, str(tiny_model_dir), data_dir)
    assert first.forget[0] == second.forget[0]


def test_a_model_that_knows_too_much_is_refused(tiny_model_dir, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(SmolTestbed, "_right", lambda *arguments: [True] * len(arguments[-1]))
    with pytest.raises(RetainFirstError, match="forget10_perturbed has only 0 rows"):
        SmolTestbed(tmp_path, SmolSizes(), 2, str(tiny_model_dir), data_dir)


def test_the_rows_asked_are_answered_one_by_one(tiny_model_dir, data_dir):
    """The choice rests on the accuracy that the paths are measured by."""
    model, tokenizer = load_model(str(tiny_model_dir)), load_tokenizer(str(tiny_model_dir))
    task = "retainfirst_tofu_forget10"
    answers = answered_right(model, tokenizer, task, data_dir=data_dir)
    found = {one.metric: one for one in score(model, tokenizer, [task], data_dir=data_dir)}
    assert len(answers) == found["acc_norm"].n == 90
    assert sum(answers) / 90 == pytest.approx(found["acc_norm"].value)


def test_missing_data_are_named(tmp_path):
    with pytest.raises(RetainFirstError, match=r"has no forget10_perturbed\.jsonl"):
        read_rows("forget10_perturbed", tmp_path)
    with pytest.raises(RetainFirstError, match="--data-dir"):
        read_rows("forget10_perturbed", None)
