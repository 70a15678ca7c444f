"""``retainfirst evaluate --tasks`` with groups of tasks: stand-ins in the form of MMLU, WMDP and a task that generates."""

import json
import sys

import pytest
import torch

from lm_eval_groups import LETTERS, SUBJECTS, write_groups
from retainfirst.cli import main
from retainfirst.models import load_model, load_tokenizer
from tiny import save_tiny

pytest.importorskip("lm_eval")

STEM = ["toy_mmlu_algebra", "toy_mmlu_physics"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("groups")
    save_tiny(made / "before", seed=1)
    save_tiny(made / "after")
    write_groups(made / "tasks")
    return made


@pytest.fixture
def run(folder, monkeypatch, capsys):
    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        line = ["retainfirst", "evaluate", "--model", "after", "--device", "cpu", "--include-path", "tasks", *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, line)))
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capsys.readouterr()
        return int(leaving.value.code or 0), captured.out, captured.err

    return call


def right_answers(folder, model, task) -> list[bool]:
    """Ask the model itself: is the right letter the most probable of the four?"""
    network, tokenizer = load_model(str(folder / model)), load_tokenizer(str(folder / model))
    found = []
    for line in (folder / "tasks" / f"{task}.jsonl").read_text().splitlines():
        row = json.loads(line)
        options = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True))
        known = tokenizer(f"{row['question']}{options}\nAnswer:", add_special_tokens=False)["input_ids"]
        sums = []
        for letter in LETTERS:
            whole = tokenizer(f"{row['question']}{options}\nAnswer: {letter}", add_special_tokens=False)["input_ids"]
            said = known + whole[len(known) :]  # lm-eval keeps the prompt's own tokens
            with torch.no_grad():
                logs = network(input_ids=torch.tensor([said])).logits.log_softmax(-1)[0]
            sums.append(sum(logs[i - 1, said[i]].item() for i in range(len(known), len(said))))
        found.append(sums.index(max(sums)) == row["answer"])
    return found


def test_a_group_is_the_mean_over_the_questions_of_its_tasks(run, folder):
    code, out, _ = run("--before", "before", "--tasks", "toy_mmlu,toy_wmdp", "--batch-size", "auto", "--json")
    assert code == 0
    data = json.loads(out)
    rows = {one["task"]: one for one in data["scores"]}
    assert list(rows) == [
        "toy_mmlu", "toy_mmlu_stem", *STEM, "toy_mmlu_law", "toy_wmdp", "toy_wmdp_bio", "toy_wmdp_cyber",
    ]  # fmt: skip
    assert [one["group"] for one in rows.values()] == [
        None, "toy_mmlu", "toy_mmlu_stem", "toy_mmlu_stem", "toy_mmlu", None, "toy_wmdp", "toy_wmdp",
    ]  # fmt: skip
    assert {one["chance"] for one in rows.values()} == {0.25}
    former = {one["task"]: one["value"] for one in data["scores_before"]}
    for model, values in (("after", {name: one["value"] for name, one in rows.items()}), ("before", former)):
        right = {f"toy_mmlu_{name}": right_answers(folder, model, f"toy_mmlu_{name}") for name in SUBJECTS}
        for task, each in right.items():
            assert values[task] == pytest.approx(sum(each) / len(each))
        stem = right[STEM[0]] + right[STEM[1]]
        assert values["toy_mmlu_stem"] == pytest.approx(sum(stem) / 6)
        assert values["toy_mmlu"] == pytest.approx(sum(stem + right["toy_mmlu_law"]) / 8)
    assert [rows[name]["n"] for name in ("toy_mmlu", "toy_mmlu_stem", *STEM)] == [8, 6, 5, 1]
    for name, one in rows.items():
        assert one["kept"] == (pytest.approx(one["value"] / former[name]) if former[name] else None)


def test_a_group_is_shown_above_its_tasks_and_the_limit_is_one_of_each_task(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    code, out, _ = run("--before", "before", "--tasks", "toy_mmlu,toy_tofu", "--limit", 1)
    assert code == 0
    rows = [line.strip("│").split("│") for line in out.splitlines() if "toy_" in line]
    assert [row[0].rstrip() for row in rows] == [
        " toy_mmlu", "   toy_mmlu_stem", "     toy_mmlu_algebra", "     toy_mmlu_physics", "   toy_mmlu_law",
        " toy_tofu", " toy_tofu",
    ]  # fmt: skip
    assert [row[4].strip() for row in rows] == ["3", "2", "1", "1", "1", "1", "1"]
    assert [(row[1].strip(), row[5].strip()) for row in rows[5:]] == [("recall", ""), ("words", "")]
    assert rows[6][7].strip() == "", "of words less is better, so no share is kept"


def test_a_group_is_asked_once(run, folder, monkeypatch):
    from retainfirst_lab.tasks import multiple_choice

    asked, real = [], multiple_choice.score
    monkeypatch.setattr(multiple_choice, "score", lambda *some, **how: asked.append(some[2]) or real(*some, **how))

    def scores():
        code, out, _ = run("--tasks", "toy_mmlu_stem,toy_tofu,toy_mmlu_physics", "--cache", "kept", "--json")
        assert code == 0
        return json.loads(out)["scores"]

    first = scores()
    names = ["toy_mmlu_stem", *STEM, "toy_tofu", "toy_tofu"]
    assert [one["task"] for one in first] == names, "a subject that is asked for once more is shown once"
    assert asked == [["toy_mmlu_stem"], ["toy_tofu"], ["toy_mmlu_physics"]]
    assert scores() == first
    assert len(asked) == 3
    data = folder / "tasks" / "toy_mmlu_algebra.jsonl"
    data.write_text(data.read_text().replace("algebra", "algebras"))
    scores()
    assert len(asked) == 6, "other questions are asked again"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--tasks", "toy_mmlu,toy_mmlu_law"), "overlap: Duplicate task 'toy_mmlu_law'"),
        ((), "--include-path needs --tasks"),
        (("--tasks", "toy_mmlu", "--include-path", "nowhere"), "--include-path nowhere is no folder"),
    ],
)
def test_bad_use(run, arguments, text):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert text in err
