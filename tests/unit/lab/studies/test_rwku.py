"""The study of RWKU: its statistics and tables, and its runs against a stand-in for the framework."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst_lab.studies import rwku
from retainfirst_lab.studies.rwku_runs import OBJECTIVES, PROBES, RULES, Cell, Design, Framework, Runs, cells
from retainfirst_lab.studies.rwku_tables import Score, compare, power, scores, tables
from retainfirst_lab.tasks.rwku import UNRELATED
from rwku_files import SUBJECTS, write_by_subject

EXPERIMENTS = Path(__file__).parents[4] / "plugin/src/retainfirst_open_unlearning/conf/experiment/unlearn/rwku"


def made_rows(facts=4):
    """Each fact has a probe in each set; there is one question of general knowledge."""
    rows = {probe: [{"subject": "Ada", "fact": str(fact), "before": 1.0} for fact in range(facts)] for probe in PROBES}
    rows["neighbor_level2"].append({"subject": UNRELATED, "fact": "99", "before": 1.0})
    return rows


def made_run(rule, forget=0.0, neighbor=0.5, unrelated=1.0, objective="ga", seed=1, facts=4):
    recalls = {probe: [forget if probe.startswith("forget") else neighbor] * facts for probe in PROBES}
    recalls["neighbor_level2"].append(unrelated)
    return {
        "cell": {"objective": objective, "rule": rule, "seed": seed},
        "seconds": 60.0,
        "points": [{"step": 4, "recalls": recalls}],
    }


def made_report(*runs):
    return {
        "design": asdict(Design()), "asked": made_rows(8), "kept": made_rows(), "runs": list(runs),
        "planned": ["a", "b", "c"], "versions": {"torch": "2"}, "machine": {"processor": "one", "cores": 1, "device": "cpu"},
        "date": "2026-11-29T",
    }  # fmt: skip


def test_states_are_interpolated_where_enough_is_forgotten():
    matched, end = scores(made_run("sum", neighbor=0.6, unrelated=0.8), made_rows(), 0.5)
    assert (matched.step, matched.mean("forget_level1", "forget_level2", "forget_level3")) == (2, 0.5)
    assert matched.recalls["neighbor_level1"] == [0.8] * 4
    assert matched.mean(UNRELATED) == pytest.approx(0.9)
    assert (end.step, end.recalls["neighbor_level2"], end.recalls[UNRELATED]) == (4, [0.6] * 4, [0.8])


def test_a_run_that_does_not_forget_has_no_matched_state():
    matched, end = scores(made_run("sum", forget=0.6), made_rows(), 0.5)
    assert matched is None
    assert end.step == 4


def state(first, second):
    return Score(4, {"neighbor_level1": first, "neighbor_level2": second, UNRELATED: [0.0]})


def test_differences_are_paired_by_probe_and_averaged_over_seeds():
    rows = made_rows()
    plain = [state([0, 1, 0, 1], [0, 0, 1, 1]), state([0, 0, 0, 0], [0, 0, 0, 0])]
    better = [state([0.5, 1.5, 0.5, 1.5], [0.5, 0.5, 1.5, 1.5]), state([0, 0, 0, 0], [0, 0, 0, 0])]
    found = compare(better, plain, rows)
    assert (found.mean, found.low, found.high, found.facts) == (0.25, 0.25, 0.25, 4)
    assert found.error == 0


def test_the_probes_of_a_fact_are_drawn_together():
    """So that asking every fact twice does not make an interval narrower."""
    values = [0, 1, 1, 0, 0, 0, 1, 0, 1, 0]
    once = made_rows(10)
    found = compare([state(values, values)], [state([0] * 10, [0] * 10)], once)
    alone = compare([state(values, [0] * 10)], [state([0] * 10, [0] * 10)], once)
    assert found.error == pytest.approx(2 * alone.error)
    assert found.error == pytest.approx(
        (0.4 * 0.6 / 10) ** 0.5, rel=0.05
    )  # of a mean of 10 draws; the bootstrap's noise
    assert found.low < found.mean == 0.4 < found.high


def test_power_asks_for_four_times_the_facts_for_half_the_difference():
    rows, values = made_rows(10), [0, 1, 1, 0, 0, 0, 1, 0, 1, 0]
    states = {("npo", "sum", 1): state([0] * 10, [0] * 10), ("npo", "sago", 1): state(values, values)}
    [line] = power("", states, rows).rows
    small, large, papers = (int(cell) for cell in line[5:8])
    assert small == pytest.approx(4 * large, rel=0.01)
    assert papers < large  # the paper's lead is 0.34
    assert line[:3] == ["npo", "`sago`", "10"]
    assert line[8] == "+0.34"


def test_tables_have_each_rule_and_say_which_runs_are_missing():
    report = made_report(made_run("sum", neighbor=0.2), made_run("sago", neighbor=0.6), made_run("pcgrad", forget=0.9))
    known, matched, ends, _ = tables(report)
    assert known.rows[0] == ["forget_level1", "8", "1.000", "8", "100%", "4"]
    assert known.rows[-1] == [UNRELATED, "1", "1.000", "1", "100%", "1"]
    for table in (matched, ends):
        assert [line[:2] for line in table.rows] == [[one, f"`{rule}`"] for one in OBJECTIVES for rule in RULES]
    by_rule = {line[1]: line for line in matched.rows if line[0] == "ga"}
    assert by_rule["`sago`"][2:4] == ["1/1", "2.0"]
    assert by_rule["`sago`"][11] == "+0.200 (+0.200 to +0.200)"
    assert by_rule["`sum`"][11:] == ["", "15.5", "0.18"]
    assert by_rule["`pcgrad`"][2:6] == ["0/1", "", "", ""]
    assert by_rule["`sago_keep_retain`"][2] == "0/0"
    assert "runs: 3 of 3; 1.0 minutes each, and 0.0 hours" in rwku.summary(report)


def test_seeds_are_the_outermost_loop_and_experiments_exist(framework, tmp_path):
    planned = cells([1, 2])
    assert [cell.seed for cell in planned] == [1] * 12 + [2] * 12
    runs = Runs(tmp_path / "out", tmp_path, framework, Design())
    runs.ask_before()
    for cell in planned:
        experiment = runs.overrides(cell, tmp_path)[0].rpartition("/")[2]
        assert (EXPERIMENTS / f"{experiment}.yaml").is_file()


@pytest.mark.parametrize("own", [True, False])
def test_subjects_are_those_of_the_passages(framework, tmp_path, own):
    data = None if own else write_by_subject(tmp_path / "rwku")
    runs = Runs(tmp_path / "out", tmp_path, framework, Design(), data)
    runs.ask_before()
    [forget] = [one for one in runs.overrides(Cell("ga", "sum", 1), tmp_path) if one.startswith("forget_subjects=")]
    names = json.loads(forget.partition("=")[2])
    assert ("Socrates" in names) == own
    assert len(names) == (14 if own else len(SUBJECTS))


STAND_IN = """
import json, pathlib, sys
given = dict(one.lstrip("+").split("=", 1) for one in sys.argv[1:] if "=" in one)
output = pathlib.Path(given["paths.output_dir"])
def answer(folder, share):
    folder.mkdir(parents=True, exist_ok=True)
    logs = {}
    for probe in json.loads('PROBES'):
        rows = json.loads(pathlib.Path(given.get("eval.rwku.path") or given["rwku_path"], probe + ".json").read_text())
        values = {str(n): {"rougeL_recall": float(n % share == 0)} for n in range(len(rows))}
        logs[probe + "_rouge"] = {"value_by_index": values}
    (folder / "RWKU_EVAL.json").write_text(json.dumps(logs))
"""
EVAL = STAND_IN + "answer(output, 2)\n"
TRAIN = (
    STAND_IN
    + """
every = int(given["trainer.args.eval_steps"])
for step in range(every, 1 + int(given["trainer.args.max_steps"]), every):
    answer(output / f"checkpoint-{step}" / "evals", step)
(output / "trainer_state.json").write_text(json.dumps({"log_history": [{"forget_loss": 1.0, "step": 1}, {"eval_x": 0}]}))
(output / "model.safetensors").write_text("large")
print(given["trainer.method_args.combiner"], file=(output.parent.parent / "ran").open("a"))
"""
)


@pytest.fixture
def framework(tmp_path):
    source = tmp_path / "framework" / "src"
    source.mkdir(parents=True)
    for name, text in (("eval.py", EVAL), ("train.py", TRAIN)):
        (source / name).write_text(text.replace("PROBES", json.dumps(PROBES)))
    return Framework(source.parent, sys.executable)


def test_only_known_probes_are_kept_and_finished_runs_are_not_run_again(framework, tmp_path):
    runs = Runs(tmp_path / "out", tmp_path / "model", framework, Design())
    runs.ask_before()
    asked, kept = runs.asked(), runs.kept()
    for probe in PROBES:
        assert [row for row in asked[probe][::2] if row in kept[probe]] == kept[probe]
        assert {row["before"] for row in kept[probe]} == {1.0}
    assert [len(kept[probe]) for probe in PROBES] == [8, 8, 8, 24, 32]
    assert sum(row["subject"] == UNRELATED for row in kept["neighbor_level2"]) == 8
    planned = cells([200])[:3]
    rwku.go_on(runs, planned[:2], None)
    assert runs.read(planned[2]) is None
    rwku.go_on(runs, planned, None)
    assert (tmp_path / "out" / "ran").read_text().split() == ["sum", "sago", "pcgrad"]
    found = runs.read(planned[2])
    assert [point["step"] for point in found["points"]] == [3, 6]
    assert found["training"] == [{"forget_loss": 1.0, "step": 1}]
    assert sum(found["points"][0]["recalls"]["forget_level1"]) == -(-len(kept["forget_level1"]) // 3)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_no_run_begins_after_the_deadline(framework, tmp_path, capsys):
    runs = Runs(tmp_path / "out", tmp_path / "model", framework, Design())
    runs.ask_before()
    rwku.go_on(runs, cells([200]), 0.0)
    assert not (tmp_path / "out" / "ran").exists()
    assert "npo-sum-200 is left for the next call" in capsys.readouterr().out


def test_another_design_in_the_folder_is_refused(framework, tmp_path):
    Runs(tmp_path / "out", tmp_path / "model", framework, Design())
    with pytest.raises(RetainFirstError, match="is of another design, .*'steps': 6"):
        Runs(tmp_path / "out", tmp_path / "model", framework, replace(Design(), steps=99))


def test_the_end_of_the_output_of_a_failed_run_is_shown(framework, tmp_path):
    (framework.home / "src" / "eval.py").write_text("raise SystemExit('no such model')")
    runs = Runs(tmp_path / "out", tmp_path / "model", framework, Design())
    with pytest.raises(
        RetainFirstError, match=r"(?s)src/eval\.py of .* ended with 1; see .*before\.log.*no such model"
    ):
        runs.ask_before()
    with pytest.raises(RetainFirstError, match=r"has no src/train\.py: give the folder of a checkout"):
        Framework(tmp_path, sys.executable).run(tmp_path / "log", "src/train.py")
    assert runs.read(Cell("ga", "sum", 1)) is None


def test_the_command_goes_on_and_writes_the_page(framework, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("# RWKU\n\n<!-- begin rwku -->\n<!-- end rwku -->\n")
    arguments = [
        "rwku", "--model", str(tmp_path / "model"), "--open-unlearning", str(framework.home), "--output",
        str(tmp_path / "out"), "--seeds", "200", "--write", str(page),
    ]  # fmt: skip
    monkeypatch.setattr(Framework, "versions", lambda self: {"torch": "2.4.1"})
    monkeypatch.setattr(sys, "argv", arguments)
    rwku.main()
    assert "npo-sum-200" in capsys.readouterr().out
    assert "runs: 12 of 12" in page.read_text()
    assert "| ga | `sago_keep_retain` | 1/1 |" in page.read_text()
    monkeypatch.setattr(sys, "argv", [*arguments[:4], str(tmp_path), *arguments[5:6], str(tmp_path / "new")])
    with pytest.raises(SystemExit):
        rwku.main()
    assert "error: " in capsys.readouterr().err
