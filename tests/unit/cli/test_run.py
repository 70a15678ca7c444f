"""Scripts that others wrote, run unedited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from retainfirst.cli import main, run_app
from retainfirst.hf._stepping import StepInTrainer

HERE = Path(__file__)
TESTS = str(HERE.parents[2])

SCRIPT = """
import sys
from helper_beside_the_script import VALUE
import foreign, torch

class Mine(foreign.GradDiff):
    pass

class ForgetOnly(foreign.GradDiff):
    def compute_loss(self, model, inputs, **_):
        return -model(**inputs).loss

class OwnStep(foreign.GradDiff):
    def training_step(self, *arguments):
        return super().training_step(*arguments)

if __name__ == "__main__":
    folder, kind, *rest = sys.argv[1:]
    options = {"collator": lambda rows: foreign.stack(rows)[0]} if kind == "ForgetOnly" else {}
    for name in kind.split("+"):
        trainer = foreign.make({**vars(), "Trainer": foreign.Trainer}[name], folder, **options)
        if "tokenizer" in rest:
            import tiny
            trainer.processing_class = tiny.tiny_tokenizer()
        trainer.train()
        torch.save(trainer.model.state_dict(), f"{folder}/{name}.pt")
    if "fail" in rest:
        sys.exit(7)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "helper_beside_the_script.py").write_text("VALUE = 1")
    (folder / "train.py").write_text(SCRIPT)
    yield str(folder / "train.py")
    sys.modules.pop("helper_beside_the_script", None)


def start(monkeypatch, capsys, *arguments):
    """Return the exit code and what was written to stderr."""
    monkeypatch.setattr(sys, "argv", ["retainfirst run", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main(run_app)
    return ended.value.code, " ".join(capsys.readouterr().err.split())


def weights(folder, name="Mine"):
    return torch.load(Path(folder) / f"{name}.pt", weights_only=True)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_script_is_split_and_left_as_it_is(script, tmp_path, monkeypatch, capsys):
    found = {}
    for rule in ("own", "sum", "sago"):
        (folder := tmp_path / rule).mkdir()
        if rule == "own":
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, *filter(None, sys.path)])}
            subprocess.run([sys.executable, script, folder, "Mine"], env=environment, check=True, capture_output=True)
        else:
            code, error = start(monkeypatch, capsys, "--combiner", rule, script, folder, "Mine", "--combiner", "theirs")
            assert code == 0
            assert f"Mine takes its two gradients apart and combines them by {rule}" in error
        found[rule] = weights(folder)
    assert same(found["own"], found["sum"])
    assert not same(found["own"], found["sago"])
    assert Trainer.train.__module__ == "transformers.trainer"
    assert sys.argv[0] == "retainfirst run"


def test_options(script, tmp_path, monkeypatch, capsys):
    seen = []
    own = StepInTrainer._choose_step

    def note(trainer, *arguments, **options):
        seen.append((*arguments, options))
        return own(trainer, *arguments, **options)

    monkeypatch.setattr(StepInTrainer, "_choose_step", note)
    options = [
        "--combiner",
        "pcgrad",
        "--combiner-option",
        "gamma=0.5",
        "--combiner-option",
        "scope=module",
        "--guard",
        "measure",
    ]
    code, _ = start(
        monkeypatch,
        capsys,
        *options,
        "--offload",
        "cpu",
        "--where",
        "mlp",
        "--parts",
        "forget,retain",
        script,
        tmp_path,
        "Mine",
    )
    assert code == 0
    (chosen,) = seen
    step = {"where": "mlp", "offload": "cpu", "stream": False, "guard": "measure"}
    assert chosen == ("pcgrad", {"gamma": 0.5, "scope": "module"}, step)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ([], "OwnStep", "no trainer was split: OwnStep has a training_step of its own"),
        (["--class", "Mien"], "Mine", "no trainer was split: Mine is not the class Mien"),
        (["--class", "OwnStep"], "OwnStep", "error: OwnStep has a training_step of its own"),
        (["--combiner", "sagoo"], "Mine", "Unknown combiner 'sagoo'"),
        (["--parts", "forget,forget,retain"], "Mine", "Mine: which part of the batch is for which task"),
        (["--combiner-option", "guard=off"], "Mine", "--combiner-option guard=...: this is no option of a combiner"),
        ([], "ForgetOnly", "which part of the batch is for which task"),
    ],
)
def test_what_cannot_be_split(script, tmp_path, monkeypatch, capsys, options, kind, text):
    code, error = start(monkeypatch, capsys, *options, script, tmp_path, kind)
    assert code == 2
    assert text in error


def test_by_class_the_others_train_as_they_do(script, tmp_path, monkeypatch, capsys):
    code, error = start(monkeypatch, capsys, "--class", "Mine", script, tmp_path, "OwnStep+Mine")
    assert code == 0
    assert error.count("takes its two gradients apart") == 1


def test_a_script_without_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "nothing.py").write_text("import sys\nprint('theirs', sys.argv[1:])\nsys.exit()")
    code, error = start(monkeypatch, capsys, tmp_path / "nothing.py", "--lr", "1")
    assert code == 2
    assert "no trainer was split: it never called train() of a transformers.Trainer" in error
    assert start(monkeypatch, capsys, tmp_path / "none.py") == (
        2,
        f"error: the script {tmp_path / 'none.py'} does not exist",
    )


def test_the_scripts_own_exit_code(script, tmp_path, monkeypatch, capsys):
    assert start(monkeypatch, capsys, script, tmp_path, "Mine", "fail")[0] == 7


def test_a_trainer_that_only_forgets_borrows_a_file(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "retain.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 3)
    command = ["--retain", tmp_path / "retain.jsonl", script, tmp_path, "ForgetOnly"]
    assert start(monkeypatch, capsys, *command, "tokenizer")[0] == 0
    code, error = start(monkeypatch, capsys, *command)
    assert code == 2
    assert "--retain: ForgetOnly has no tokenizer" in error


@pytest.mark.slow
def test_under_torchrun(script, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([TESTS, *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "retainfirst.run", "--combiner", "sago", script, tmp_path, "Mine"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("takes its two gradients apart and combines them by sago") == 1
    assert (tmp_path / "Mine.pt").is_file()
