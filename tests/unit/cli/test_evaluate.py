"""``retainfirst evaluate`` and the multiple-choice tasks behind it, on tiny models."""

import json
import math
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from retainfirst import cli, evaluation
from retainfirst.cli import main
from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst_lab.tasks import multiple_choice
from retainfirst_lab.tasks.facts import FactsConfig, facts_data, facts_parts, implant
from retainfirst_lab.tasks.multiple_choice import TASKS, default_tasks, score

pytest.importorskip("lm_eval")

FORGET, RETAIN = "retainfirst_facts_forget", "retainfirst_facts_retain"
TOFU, ARC = "retainfirst_tofu_forget10", "retainfirst_arc_easy"
SMALL = FactsConfig(seed=3, forget_people=2, retain_people=3, hidden_size=32)


@pytest.fixture(scope="module")
def facts_model():
    return implant(SMALL)


@pytest.fixture(scope="module")
def facts_dir(facts_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    for part in facts_model:
        part.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """Local TOFU (flat) and ARC (in its folder), as users have them."""
    perturbed = [
        {"question": f"Who wrote book {n}?", "answer": "the one", "perturbed_answer": ["not", "neither", "nor"]}
        for n in range(5)
    ]
    for name in TASKS:
        if "tofu" in name:
            write_rows(tmp_path / TASKS[name][1], perturbed)
    arc = [{"question": "What is hot?", "choices": ["the sun", "ice", "snow"], "answer": 0}]
    arc.append({"question": "What is cold?", "choices": ["fire", "ice"], "answer": 1})
    write_rows(tmp_path / "arc_easy" / "test.jsonl", arc)
    return tmp_path


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Run the command as the shell does; return exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["retainfirst", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    captured = capsys.readouterr()
    return int(leaving.value.code or 0), captured.out, captured.err


# What is measured


def test_facts_model_knows_its_facts(facts_model):
    state = torch.get_rng_state()
    scores = score(*facts_model, default_tasks(facts_model[0]))
    assert [(one.task, one.metric, one.value, one.chance) for one in scores] == [
        (FORGET, "acc", 1.0, 0.25),
        (RETAIN, "acc", 1.0, 0.25),
    ]
    assert [one.n for one in scores] == [len(rows) for rows in facts_data(SMALL)]
    assert torch.equal(state, torch.get_rng_state()), "the caller's random state is touched"


def test_lm_evals_own_loader_finds_the_facts_of_a_model(facts_dir):
    """As ``lm_eval --include_path ... --model_args pretrained=<folder>`` does: it passes the model's arguments to the tasks."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(multiple_choice.YAML_FOLDER), include_defaults=False, metadata={"pretrained": str(facts_dir)}
    )
    found = simple_evaluate(
        model="hf", model_args={"pretrained": str(facts_dir)}, tasks=[FORGET, RETAIN], task_manager=manager, device="cpu",
        batch_size=16,
    )  # fmt: skip
    assert [found["results"][task]["acc,none"] for task in (FORGET, RETAIN)] == [1.0, 1.0]
    assert [found["n-samples"][task]["effective"] for task in (FORGET, RETAIN)] == [
        len(rows) for rows in facts_data(SMALL)
    ]


def test_facts_that_the_model_was_not_taught_are_refused(facts_model):
    with pytest.raises(RetainFirstError, match="facts that this facts model does not have"):
        score(*facts_model, ["retainfirst_facts_unrelated"])


def test_a_broken_model_is_not_right(facts_model):
    """All scores NaN: the first choice counts, and must not always be the right one."""
    model, tokenizer = facts_model
    weight = model.lm_head.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        (found,) = score(model, tokenizer, [FORGET])
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    first = sum(row["answer"] == 0 for row in facts_data(SMALL)[0])
    assert found.value == first / found.n
    assert found.value < 1


def test_probability_of_choices_decides(data_dir, llama, tokenizer):
    """The result is that of log-probabilities computed here, question by question."""
    (acc, norm) = score(llama, tokenizer, [ARC], data_dir=data_dir)
    assert (acc.metric, norm.metric) == ("acc", "acc_norm")
    assert acc.chance == pytest.approx((1 / 3 + 1 / 2) / 2)
    right = {"acc": 0, "acc_norm": 0}
    for line in (data_dir / "arc_easy" / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        sums = [log_prob(llama, tokenizer, f"Question: {row['question']}\nAnswer:", f" {c}") for c in row["choices"]]
        by_length = [s / len(c) for s, c in zip(sums, row["choices"], strict=True)]
        right["acc"] += sums.index(max(sums)) == row["answer"]
        right["acc_norm"] += by_length.index(max(by_length)) == row["answer"]
    assert (acc.value, norm.value) == (right["acc"] / 2, right["acc_norm"] / 2)


def log_prob(model, tokenizer, prompt: str, answer: str) -> float:
    """Sum over the answer's tokens; lm-eval keeps the prompt's own tokens where one would span the boundary."""
    known = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = known + tokenizer(prompt + answer, add_special_tokens=False)["input_ids"][len(known) :]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)[0]
    return sum(logs[i - 1, ids[i]].item() for i in range(len(known), len(ids)))


def test_the_library_alone_runs_tasks(data_dir, llama, tokenizer):
    """Without the laboratory: the package's own tasks, and one from two files."""
    own = {
        "mine": evaluation.TaskFile(
            evaluation.YAML_FOLDER / "retainfirst_arc_easy.yaml", data_dir / "arc_easy" / "test.jsonl"
        )
    }
    found = evaluation.multiple_choice(llama, tokenizer, ["mine", ARC], data_dir=data_dir, own_tasks=own)
    assert [(one.task, one.metric, one.n) for one in found] == [
        (task, metric, 2) for task in ("mine", ARC) for metric in ("acc", "acc_norm")
    ]
    assert [one.value for one in found[:2]] == [one.value for one in found[2:]]


def test_chat_template_asks_the_bare_question(data_dir, llama, chat_tokenizer, monkeypatch):
    asked = []
    original = type(chat_tokenizer).apply_chat_template

    def record(self, messages, **options):
        asked.append(messages)
        return original(self, messages, **options)

    monkeypatch.setattr(type(chat_tokenizer), "apply_chat_template", record)
    score(llama, chat_tokenizer, [TOFU], data_dir=data_dir, chat_template=True)
    assert {"role": "user", "content": "Who wrote book 0?"} in asked[0]


def test_right_answer_moves_about():
    datasets = pytest.importorskip("datasets")
    from retainfirst.evaluation.lm_eval import choices

    rows = [{"question": str(n), "answer": "right", "perturbed_answer": ["a", "b", "c"]} for n in range(40)]
    made = choices.from_perturbed(datasets.Dataset.from_list(rows))
    assert all(row["choices"][row["gold"]] == "right" and len(row["choices"]) == 4 for row in made)
    assert {row["gold"] for row in made} == {0, 1, 2, 3}


def test_arc_rows_of_the_hub():
    datasets = pytest.importorskip("datasets")
    from retainfirst.evaluation.lm_eval import choices

    rows = [{"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}]
    assert choices.from_arc(datasets.Dataset.from_list(rows))[0] == {"question": "q", "choices": ["x", "y"], "gold": 1}


# Names, files, limits


def test_every_task_has_its_file():
    files = {
        folder: {path.stem for path in folder.glob("retainfirst_*.yaml")}
        for folder in (evaluation.YAML_FOLDER, multiple_choice.YAML_FOLDER)
    }
    assert files[evaluation.YAML_FOLDER] == set(evaluation.TASKS)
    assert set().union(*files.values()) == set(TASKS)


def test_default_tasks(facts_model, llama):
    assert default_tasks(facts_model[0]) == (FORGET, RETAIN)
    assert default_tasks(llama) == tuple(name for name in TASKS if "tofu" in name)


def test_all_local_tasks_and_limit(data_dir, llama, tokenizer):
    scores = score(llama, tokenizer, [*default_tasks(llama), ARC], data_dir=data_dir, limit=2)
    assert len(scores) == 10
    assert {one.n for one in scores} == {2}
    assert {one.chance for one in scores if "tofu" in one.task} == {0.25}


def test_absent_local_file_is_named(data_dir, llama, tokenizer):
    (data_dir / TASKS[TOFU][1]).unlink()
    with pytest.raises(RetainFirstError, match="forget10_perturbed"):
        score(llama, tokenizer, [TOFU], data_dir=data_dir)


def test_facts_of_another_model(llama, tokenizer):
    with pytest.raises(RetainFirstError, match="another model"):
        score(llama, tokenizer, [FORGET])


def test_unreachable_hub_points_at_local_data(llama, tokenizer):
    with pytest.raises(RetainFirstError, match="--data-dir"):
        score(llama, tokenizer, [TOFU])


def test_no_template_to_ask_through(llama, tokenizer, data_dir):
    with pytest.raises(RetainFirstError, match="no chat template"):
        score(llama, tokenizer, [TOFU], data_dir=data_dir, chat_template=True)


# The command


def test_json(facts_dir, tmp_path, monkeypatch, capsys):
    file = tmp_path / "scores.json"
    code, out, _ = run(
        monkeypatch, capsys, "--model", facts_dir, "--json", "--output", file, "--limit", 4, "--device", "cpu"
    )
    assert code == 0
    report = json.loads(out)
    assert [(row["task"], row["value"], row["n"]) for row in report["scores"]] == [(FORGET, 1.0, 4), (RETAIN, 1.0, 4)]
    assert report["versions"]["torch"] == version("torch")
    assert json.loads(file.read_text()) == report
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_table(facts_dir, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(monkeypatch, capsys, "--model", facts_dir, "--tasks", RETAIN, "--device", "cpu")
    assert code == 0
    row = next(line for line in out.splitlines() if RETAIN in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [RETAIN, "acc", "1.000", "0.000", "12", "0.250"]


def test_unknown_task_names_the_nearest(facts_dir, monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "--model", facts_dir, "--tasks", "retainfirst_fact_forget")
    assert code == 2
    assert out == ""
    assert f"Did you mean '{FORGET}'?" in err


def test_help_names_the_tasks_of_each_kind_of_model():
    result = CliRunner().invoke(cli.app, ["evaluate", "--help"], env={"COLUMNS": "200"})
    any_model, built_in, further = re.split("For the facts model|For a facts model", " ".join(result.output.split()))
    named = [
        set(re.findall(r"retainfirst_[a-z]+_\w+", text.split("Examples")[0])) for text in (any_model, built_in, further)
    ]
    facts = {f"retainfirst_facts_{part}" for part in facts_parts(FactsConfig())}
    assert named[0] == {name for name in TASKS if "retainfirst_facts" not in name}
    assert named[1] == facts
    assert named[2] == {name for name in TASKS if "retainfirst_facts" in name} - facts


def test_a_device_is_refused_before_the_model_is_loaded(facts_dir, monkeypatch, capsys):
    monkeypatch.setattr("retainfirst.cli._evaluate.load_model", None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    code, _, err = run(monkeypatch, capsys, "--model", facts_dir, "--device", "cuda:1")
    assert code == 2
    assert "device 'cuda:1' cannot be used: this machine has 1 cuda device" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--tasks", " , "), "No task"),
        (("--data-dir", "nowhere"), "does not exist"),
        (("--chat-template", "allways"), "'always'"),
        (("--output", "nowhere/scores.json"), "cannot be written"),
        (("--device", "marble"), "'marble' cannot be used"),
        (("--limit", "0"), "--limit"),
        (("--batch-size", "-1"), "--batch-size"),
    ],
)
def test_bad_use(facts_dir, monkeypatch, capsys, arguments, text):
    code, out, err = run(monkeypatch, capsys, "--model", facts_dir, *arguments)
    assert code == 2
    assert out == ""
    assert text in err


def test_bad_model(tmp_path, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "--model", tmp_path)
    assert code == 2
    assert str(tmp_path) in err.replace("\n", "")


def test_lm_eval_absent(facts_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependency, match=r"retainfirst\[eval\]"):
        score(*facts_model, [FORGET])


def test_numbers_that_lm_eval_leaves_out():
    found = {"results": {"group": {"alias": "group", "f1,none": 0.5, "f1_stderr,none": "N/A"}}, "samples": {}}
    (one,) = evaluation._multiple_choice._read_scores(found, ["group"])
    assert (one.metric, one.value, one.n) == ("f1", 0.5, 0)
    assert math.isnan(one.stderr)
    assert math.isnan(one.chance)
