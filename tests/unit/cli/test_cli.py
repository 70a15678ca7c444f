"""The command line: options, exit codes, and what stands on the screen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import retainfirst as rf
from retainfirst import cli
from retainfirst.data import CHAT_TEMPLATE_MODES, PAIRINGS
from retainfirst.errors import RetainFirstError
from retainfirst.objectives import FORGET_OBJECTIVES, RETAIN_OBJECTIVES
from retainfirst.unlearning import DTYPES, UnlearnConfig


@pytest.fixture
def run(monkeypatch):
    """Call the command with the unlearning itself replaced by a note of its settings."""
    seen = []

    def fake(config: UnlearnConfig, **options):
        seen.append((config, options))
        measured = {"forget_probability": 0.9, "retain_probability": 0.8}
        after = {"forget_probability": 0.1, "retain_probability": None}
        return {"steps": [{}] * 3, "before": measured, "after": after, "warnings": ["the stop target was missed"]}

    monkeypatch.setattr("retainfirst.unlearning.unlearn", fake)

    def call(*arguments):
        return CliRunner().invoke(cli.app, ["unlearn", *arguments]), seen

    return call


FILES = ("--model", "m", "--forget", "f.jsonl", "--retain", "r.jsonl", "--output", "out")


def test_options_become_settings(run):
    result, [(config, _)] = run(
        *FILES, "--objective", "npo", "--retain-loss", "kl", "--combiner", "pcgrad", "--scope", "block", "--alpha", "0.5",
        "--gamma", "2", "--beta", "0.2", "--max-steps", "7", "--batch-size", "3", "--accumulate", "2", "--learning-rate", "1e-4",
        "--stop-at-forget-probability", "0.1", "--lora-rank", "4", "--dtype", "bfloat16", "--seed", "5",
        "--report-to", "tensorboard",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert config == UnlearnConfig(
        model="m", forget="f.jsonl", retain="r.jsonl", output="out", objective="npo", retain_loss="kl", combiner="pcgrad",
        scope="block", alpha=0.5, gamma=2.0, beta=0.2, max_steps=7, batch_size=3, accumulate=2, learning_rate=1e-4,
        stop_at_forget_probability=0.1, lora_rank=4, dtype="bfloat16", seed=5, report_to="tensorboard",
    )  # fmt: skip


def test_without_options_the_settings_are_the_librarys(run):
    _, [(config, _)] = run(*FILES)
    assert config == UnlearnConfig(model="m", forget="f.jsonl", retain="r.jsonl", output="out")


def test_the_table_and_the_json(run):
    result, _ = run(*FILES)
    assert "forget probability" in result.output
    assert "not finite" in result.output
    assert "warning (sago): the stop target was missed" in result.output
    result, _ = run(*FILES, "--json")
    assert json.loads(result.output) == {
        "sago": {
            "steps": 3,
            "before": {"forget_probability": 0.9, "retain_probability": 0.8},
            "after": {"forget_probability": 0.1, "retain_probability": None},
            "warnings": ["the stop target was missed"],
        }
    }


def test_without_a_model_the_facts_are_unlearned_beside_plain_addition(run, monkeypatch, tmp_path):
    monkeypatch.setattr("retainfirst_lab.tasks.facts.cached_folder", lambda progress: tmp_path / "facts")
    result, seen = run(
        "--combiner", "pcgrad", "--scope", "global", "--max-steps", "9", "--output", str(tmp_path / "out")
    )
    assert result.exit_code == 0, result.output
    assert [config.combiner for config, _ in seen] == ["pcgrad", "sum"]
    assert [config.scope for config, _ in seen] == ["global", None]
    assert [config.max_steps for config, _ in seen] == [9, 9]
    assert {config.objective for config, _ in seen} == {"ga"}
    assert [Path(config.output).name for config, _ in seen] == ["pcgrad", "sum"]
    assert (tmp_path / "out").is_dir()
    (tmp_path / "out" / "mine").touch()
    result, seen = run("--output", str(tmp_path / "out"))
    assert "not empty" in str(result.exception)


@pytest.mark.parametrize(("options", "steps"), [((), 400), (("--epochs", "2"), None), (("--max-steps", "7"), 7)])
def test_without_a_model_epochs_stand_in_place_of_the_default_steps(run, monkeypatch, tmp_path, options, steps):
    monkeypatch.setattr("retainfirst_lab.tasks.facts.cached_folder", lambda progress: tmp_path / "facts")
    result, seen = run(*options)
    assert result.exit_code == 0, result.output
    assert [config.max_steps for config, _ in seen] == [steps, steps]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--model", "m"), "--forget, --retain, --output"),
        (("--evaluate-rows", "5"), "--evaluate-rows needs --model"),
        (("--save-every", "5"), "--save-every needs --model"),
        (("--model", "m", "--forget", "f", "--retain", "r"), "--output"),
        (("--forget", "f"), "needs --model"),
        (("--resume",), "needs --model"),
        ((*FILES, "--combiner", "sagoo"), "Did you mean 'sago'"),
        ((*FILES, "--alpha", "0"), "alpha"),
    ],
)
def test_bad_use(run, arguments, text):
    result, seen = run(*arguments)
    assert isinstance(result.exception, RetainFirstError)
    assert text in str(result.exception)
    assert not seen


def test_options_of_a_combiner(run):
    result, [(config, _)] = run(
        *FILES,
        "--combiner",
        "pcgrad",
        "--combiner-option",
        "round_toward_retain=true",
        "--combiner-option",
        "scope=block",
    )
    assert result.exit_code == 0, result.output
    assert config.combiner_options == {"round_toward_retain": True, "scope": "block"}
    assert config.make_combiner() == rf.PCGrad(scope="block", round_toward_retain=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=true", True), ("x=False", False), ("x=3", 3), ("x=0.5", 0.5), ("x=.5", 0.5), ("x=1e-3", 0.001), ("x=-2", -2),
        ("x=UPGrad", "UPGrad"), ("x=CAGrad(c=0.5)", "CAGrad(c=0.5)"), ('x="true"', "true"), ("x=null", None), ("x=", ""),
        ("x = a b", "a b"), ("x=[1, 2]", [1, 2]),
    ],
)  # fmt: skip
def test_values_of_combiner_options(text, value):
    assert cli._options.name_value_pairs("--combiner-option", [text]) == {"x": value}


STRANGERS_FILE = """
import torch
import retainfirst as rf

@rf.register("cli_soft")
class Soft(rf.ElementwiseCombiner):
    def formula(self, forget, retain):
        return self.alpha * retain + self.gamma * forget * (forget * retain > 0)
"""


def test_a_combiner_in_a_file(run, tmp_path):
    (tmp_path / "mine.py").write_text(STRANGERS_FILE)
    result, [(config, _)] = run(*FILES, "--combiner", f"{tmp_path / 'mine.py'}:cli_soft", "--gamma", "2")
    assert result.exit_code == 0, result.output
    forget, retain = torch.tensor([1.0, -1.0]), torch.tensor([3.0, 3.0])
    assert rf.combine(forget, retain, config.make_combiner()).tolist() == [5.0, 3.0]
    before = config.identity()["combiner"]
    assert str(tmp_path) not in before
    assert before.endswith(":cli_soft")
    (tmp_path / "mine.py").write_text(STRANGERS_FILE + "# changed")
    assert config.identity()["combiner"] != before, "the file's content must count when a run is resumed"


def test_a_combiner_with_an_argument(run):
    pytest.importorskip("torchjd")
    result, [(config, _)] = run(*FILES, "--combiner", "torchjd:UPGrad")
    assert result.exit_code == 0, result.output
    assert type(config.make_combiner().aggregator).__name__ == "UPGrad"


def test_the_combiners_options_do_not_go_to_plain_addition(run, monkeypatch, tmp_path):
    monkeypatch.setattr("retainfirst_lab.tasks.facts.cached_folder", lambda progress: tmp_path / "facts")
    (tmp_path / "mine.py").write_text(STRANGERS_FILE.replace("cli_soft", "cli_softer"))
    own = f"{tmp_path / 'mine.py'}:cli_softer"
    for arguments in (("--combiner", "pcgrad", "--combiner-option", "round_toward_retain=true"), ("--combiner", own)):
        result, seen = run(*arguments, "--output", str(tmp_path / f"out-{len(arguments)}"))
        assert result.exit_code == 0, result.output
        chosen, plain = (config for config, _ in seen[-2:])
        assert (chosen.combiner, plain.combiner) == (arguments[1], "sum")
        assert plain.combiner_options == {}
        assert Path(chosen.output).parent == Path(plain.output).parent, "a path in the name must not become a folder"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ("--combiner-option", "round_toward_retain"),
            "--combiner-option needs NAME=VALUE, found 'round_toward_retain'",
        ),
        (("--combiner-option", "=1"), "needs NAME=VALUE"),
        (("--combiner", "pcgrad", "--combiner-option", "round_to_retain=1"), "Did you mean 'round_toward_retain'"),
        (("--combiner-option", "name=2"), "sago has no option 'name'"),
        (("--combiner-option", "gamma=2"), "gamma is a setting of its own"),
        (
            ("--combiner", "pcgrad", "--scope", "block", "--combiner-option", "scope=block"),
            "scope is a setting of its own",
        ),
        (("--combiner", "absent.py:mine"), "absent.py does not exist"),
    ],
)
def test_bad_combiner_options(run, options, text):
    result, seen = run(*FILES, *options)
    assert isinstance(result.exception, RetainFirstError)
    assert text in str(result.exception)
    assert not seen


def help_of(*command):
    result = CliRunner().invoke(cli.app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return " ".join(result.output.replace("│", " ").split())


def test_help_gives_the_defaults_with_and_without_a_model():
    text = help_of("unlearn")
    assert "microbatch. [at least 1; default: 4; without --model: 32]" in text
    assert "[0 to 1; without --model: 0.3, of the accuracy]" in text
    assert "two sets. [above 0; default: 5.0; without --model: only if given, in place of the steps]" in text
    for default in ("100", "50"):
        assert f"default: {default}; only with --model]" in text
    assert "$RETAINFIRST_CACHE" in text
    assert "own weights. [at least 0; default: 0]" in text
    assert "--combiner-option NAME=VALUE" in text


def test_help_names_every_combiner_and_choice():
    text = help_of("unlearn")
    built_in = [
        name for name in rf.available_combiners() if type(rf.make_combiner(name)).__module__.startswith("retainfirst.")
    ]
    assert {"sago", "gru"} <= set(built_in)
    for name in (*built_in, *FORGET_OBJECTIVES, *RETAIN_OBJECTIVES, *DTYPES, *CHAT_TEMPLATE_MODES, *PAIRINGS):
        assert re.search(rf"\b{name}\b", text), name


@pytest.mark.parametrize("command", [(), ("unlearn",), ("evaluate",)])
def test_help_has_examples(command):
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Examples" in result.output or not command


def shell(*arguments):
    code = "import sys; from retainfirst.cli import main; sys.argv[0] = 'retainfirst'; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_exit_codes_as_a_shell_sees_them(tmp_path):
    assert shell("--version").returncode == 0
    bad = shell("unlearn", "--model", str(tmp_path), "--forget", "f", "--retain", "r", "--output", str(tmp_path / "o"))
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1].startswith("error: "), "after the line of the stage"
    assert "Traceback" not in bad.stderr
    assert shell("unlearn", "--no-such-option").returncode == 2
    assert shell("no-such-command").returncode == 2


def test_importing_the_library_is_light():
    heavy = ("transformers", "datasets", "peft", "matplotlib", "typer", "rich", "pydantic", "torchjd", "triton")
    code = f"import sys, retainfirst; print(*[name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_the_end_of_a_run_names_the_files_worth_opening(run, tmp_path):
    for name in ("unlearning.json", "README.md", "curves.png", "model.safetensors"):
        (tmp_path / name).touch()
    given = ("--model", "m", "--forget", "f.jsonl", "--retain", "r.jsonl", "--output", str(tmp_path))
    lines = run(*given)[0].output.splitlines()
    assert f"The model is in {tmp_path}." in lines
    shown = [line.split()[0] for line in lines[lines.index("Worth opening:") + 1 :]]
    assert shown == [str(tmp_path / name) for name in ("README.md", "curves.png", "unlearning.json")]
    assert "Worth opening" not in run(*given, "--json")[0].output


def test_without_a_model_and_an_output_it_says_how_to_keep_something(run, monkeypatch, tmp_path):
    monkeypatch.setattr("retainfirst_lab.tasks.facts.cached_folder", lambda progress: tmp_path / "facts")
    assert "--output FOLDER keeps the models" in run()[0].output
