"""``retainfirst verify``: the table, the file, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import configuration
from typer.testing import CliRunner

from retainfirst import cli, reference
from retainfirst.errors import RetainFirstError
from retainfirst.theory import STATEMENTS, statement, verify
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.search import search


def call(*arguments):
    return CliRunner().invoke(cli.app, ["verify", "--real-steps", "0", *arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """One run over everything, real gradients included."""
    folder = tmp_path_factory.mktemp("verify")
    result = CliRunner().invoke(
        cli.app, ["verify", "--examples", "20", "--real-steps", "2", "--output", str(folder)], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    return json.loads((folder / "verification.json").read_text()), result.stdout


@pytest.mark.slow
def test_every_statement_is_as_expected(report):
    found, _ = report
    assert [one["id"] for one in found["statements"]] == [one.id for one in STATEMENTS]
    for entry, one in zip(found["statements"], STATEMENTS, strict=True):
        assert entry["as_expected"]
        assert entry["status"] == ("refuted" if one.status == "refuted" else "holds")
        assert entry["expected"] == one.status
        means = [check["how"] for check in entry["checks"]]
        assert ("solver" in means) == bool(one.claims)
        assert ("real" in means) == bool(one.promised_by)
        assert "property" in means
        assert "exhaustive" not in means
        for check in entry["checks"]:
            assert check["count"] > 0
            assert check["seconds"] >= 0
            assert check["verdict"] == check["expected"]
    assert set(found["versions"]) == {"retainfirst", "torch", "numpy", "hypothesis", "z3-solver"}
    assert (found["examples"], found["seed"], found["real_steps"], found["exhaustive"]) == (20, 0, 2, False)


@pytest.mark.slow
def test_counterexamples_can_be_replayed(report):
    found, _ = report
    for entry in found["statements"]:
        case = entry["counterexample"]
        assert (case is not None) == (entry["status"] == "refuted")
        if case is None:
            continue
        f, r = (np.array(case[name]).astype(FORMATS[case["dtype"]]) for name in ("forget", "retain"))
        groups = [tuple(group) for group in case["groups"]]
        updates = {
            rule: reference.combine(f, r, rule, case["alpha"], case["gamma"], groups) for rule in case["updates"]
        }
        assert {rule: u.astype(float).tolist() for rule, u in updates.items()} == case["updates"]
        if entry["id"] == "X1":
            assert reference.compare_cosines(updates["sago"], updates["pcgrad"], r) == -1
            assert set(case["cosines"]) >= {"sago", "pcgrad"}
        elif entry["id"] in ("X3", "X4"):
            step = case["step"]
            before, after = (np.array(step[name]).astype(FORMATS[case["dtype"]]) for name in ("before", "after"))
            dot = reference.dot(after, r) - reference.dot(before, r)
            assert str(dot) == step["dot_product"]
            assert dot > 0
        else:
            assert reference.dot_sign(updates["pcgrad"], r) == -1
            assert case["dtype"] == "bfloat16"


@pytest.mark.slow
def test_the_table(report):
    _, shown = report
    for one in STATEMENTS:
        assert f"{one.id} {one.title}" in shown
    assert "16 of 16 statements are as the theorem book has them" in shown
    for name in ("X1", "X3", "X4"):
        assert f"{name} is refuted by (float32, alpha = 1.0, gamma = 1.0)" in shown
    assert "Adam" in shown.partition("X3 is refuted by")[2]
    assert "refuted, as expected" in shown
    assert "should be" not in shown


def test_chosen_statements_and_json(tmp_path):
    file = tmp_path / "found.json"
    result = call("--statement", "T6", "--statement", "X1", "--statement", "T6", "--examples", "5", "--json",
                  "--output", str(file))  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(file.read_text())
    assert result.stderr.startswith("checking 1/"), "progress where there is no terminal"
    assert [one["id"] for one in json.loads(result.stdout)["statements"]] == ["T6", "X1"]
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


@pytest.fixture
def hypothesis_home(tmp_path):
    """Where hypothesis keeps its files during the test, as far as nobody says otherwise."""
    before = configuration.storage_directory(intent_to_write=False)
    configuration.set_hypothesis_home_dir(tmp_path / ".hypothesis")
    yield
    configuration.set_hypothesis_home_dir(before.home_directory)


def test_earlier_results_are_kept_and_nothing_else_is_left(tmp_path, monkeypatch, hypothesis_home):
    monkeypatch.chdir(tmp_path)
    for name in ("verification.json", "verification-2.json"):
        (tmp_path / name).write_text("mine")
    result = call("--statement", "T3", "--examples", "1", "--seed", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].split()[0] == "verification-3.json"
    assert (tmp_path / "verification.json").read_text() == (tmp_path / "verification-2.json").read_text() == "mine"
    names = ["verification-2.json", "verification-3.json", "verification.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert configuration.storage_directory(intent_to_write=False).home_directory == tmp_path / ".hypothesis"


@pytest.mark.slow
def test_the_same_seed_finds_the_same(tmp_path):
    found = []
    for _ in range(2):
        call("--statement", "X2", "--examples", "12", "--seed", "3", "--output", str(tmp_path))
        [entry] = json.loads((tmp_path / "verification.json").read_text())["statements"]
        found.append([(check["count"], check["verdict"]) for check in entry["checks"]] + [entry["counterexample"]])
    assert found[0] == found[1]
    assert json.loads((tmp_path / "verification.json").read_text())["seed"] == 3


def test_another_seed_draws_other_pairs():
    drawn = {}
    for seed in (3, 4, 3):
        pairs = []
        search(
            statement("T1"),
            lambda pair, pairs=pairs: pairs.append(pair.retain.tobytes()) or pair.retain,
            "float32",
            30,
            seed=seed,
        )
        assert drawn.setdefault(seed, pairs) == pairs
    assert drawn[3] != drawn[4]


def test_a_statement_that_does_not_do_what_it_should_gives_1(monkeypatch, tmp_path):
    from dataclasses import replace

    wrong = replace(statement("X1"), status="holds", promised_by=("sago",))
    monkeypatch.setattr("retainfirst.theory.STATEMENTS", (wrong,))
    result = call("--examples", "10", "--output", str(tmp_path))
    assert result.exit_code == 1
    assert "refuted, but should be: holds" in " ".join(result.stdout.replace("│", " ").split())
    assert "0 of 1 statements" in result.stdout
    [entry] = json.loads((tmp_path / "verification.json").read_text())["statements"]
    assert not entry["as_expected"]


def test_exhaustive_goes_through_all_pairs_and_reports_the_first_wrong_one(monkeypatch, tmp_path):
    """The check itself is the Rust core's; here a stand-in for a slice counts and finds."""
    seen = []

    def stand_in(rule, dtype, alpha, gamma, start, stop):
        seen.append((rule, dtype, start, stop))
        wrong = (0x8001, 0x0001, 0x8001, 0x0001, "T1") if (rule, dtype, start) == ("sago", "float16", 1024) else None
        return 65536 * (stop - start), 0, wrong

    monkeypatch.setattr("retainfirst.theory.checks.rust.exhaustive", stand_in)
    # The report above has the proofs of T1, which take seconds.
    monkeypatch.setattr("retainfirst.theory.solver._decide", lambda *_: ("proved", {}))
    result = call("--statement", "T1", "--exhaustive", "--examples", "1", "--output", str(tmp_path))
    assert result.exit_code == 1
    for rule in ("sago", "sago_keep_retain"):
        slices = sorted((start, stop) for r, d, start, stop in seen if (r, d) == (rule, "bfloat16"))
        assert [start for start, _ in slices] == [0, *(stop for _, stop in slices[:-1])]
        assert slices[-1][1] == 65536
    assert "sago in float16 breaks T1: forget 0x8001, retain 0x0001: 0x8001, not 0x0001" in result.stdout


def test_a_slice_of_the_real_exhaustive_check(monkeypatch):
    monkeypatch.setattr("retainfirst.theory.checks._ALL", 1024)
    check = verify.checks.by_exhaustion(lambda units: None)
    assert check.verdict == "holds"
    assert check.count == 4 * 1024 * 65536


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--statement", "T99"), "Unknown statement 'T99'.*Known: T1, T2"),
        (("--output", "no/such/folder/file.json"), "existing folder"),
        (("--output", "/dev/null"), "existing folder"),
    ],
)
def test_bad_use(arguments, text):
    import re

    result = call(*arguments)
    assert isinstance(result.exception, RetainFirstError)
    assert re.search(text, str(result.exception))


@pytest.mark.slow
def test_exit_code_of_a_shell():
    code = "from retainfirst.cli import main; import sys; sys.argv = ['retainfirst', *sys.argv[1:]]; main()"
    bad = subprocess.run(
        [sys.executable, "-c", code, "verify", "--statement", "T99"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: Unknown statement 'T99'")
    assert "Traceback" not in bad.stderr
    bad = subprocess.run(
        [sys.executable, "-c", code, "verify", "--examples", "0"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2


def test_without_transformers_real_gradients_are_left_out_and_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(cli.app, ["verify", "--statement", "T3", "--examples", "3", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "Real gradients were left out" in result.stdout
    [entry] = json.loads((tmp_path / "verification.json").read_text())["statements"]
    assert "real" not in [check["how"] for check in entry["checks"]]


def test_real_gradients_are_computed_only_for_statements_that_need_them(monkeypatch, tmp_path):
    from retainfirst_lab import real_gradients

    asked = []

    def gradients(steps, seed):
        asked.append((steps, seed))
        yield from real_steps

    real_steps = [{"weight": (torch.tensor([1.0, -2.0]), torch.tensor([1.0, 1.0]))}] * 2
    monkeypatch.setattr(real_gradients, "facts_gradients", gradients)
    for name, expected in (("X1", []), ("T3", [(2, 7)])):
        result = CliRunner().invoke(
            cli.app,
            ["verify", "--statement", name, "--examples", "3", "--real-steps", "2", "--seed", "7", "--output", str(tmp_path)],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert asked == expected
