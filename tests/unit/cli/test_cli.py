"""The command line: options, exit codes, and what stands on the screen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retainfirst import cli
from retainfirst.errors import RetainFirstError
from retainfirst.unlearning import UnlearnConfig


@pytest.fixture
def run(monkeypatch):
    """Call the command with the unlearning itself replaced by a note of its settings."""
    seen = []

    def fake(config: UnlearnConfig, **options):
        seen.append((config, options))
        measured = {"forget_probability": 0.9, "retain_probability": 0.8}
        return {"steps": [{}] * 3, "before": measured, "after": {"forget_probability": 0.1, "retain_probability": None}}

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
    result, _ = run(*FILES, "--json")
    assert json.loads(result.output) == {
        "sago": {
            "steps": 3,
            "before": {"forget_probability": 0.9, "retain_probability": 0.8},
            "after": {"forget_probability": 0.1, "retain_probability": None},
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


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--model", "m"), "--forget, --retain, --output"),
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


@pytest.mark.parametrize("command", [(), ("unlearn",), ("evaluate",)])
def test_help_has_examples(command):
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Examples" in result.output or not command


def shell(*arguments):
    code = "import sys; from retainfirst.cli import main; sys.argv[0] = 'retainfirst'; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_exit_codes_as_a_shell_sees_them(tmp_path):
    assert shell("--version").returncode == 0
    bad = shell("unlearn", "--model", str(tmp_path), "--forget", "f", "--retain", "r", "--output", str(tmp_path / "o"))
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: ")
    assert "Traceback" not in bad.stderr
    assert shell("unlearn", "--no-such-option").returncode == 2
    assert shell("no-such-command").returncode == 2


def test_importing_the_library_is_light():
    heavy = ("transformers", "datasets", "peft", "matplotlib", "typer", "rich", "torchjd", "triton")
    code = f"import sys, retainfirst; print(*[name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
