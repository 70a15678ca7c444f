"""``retainfirst reproduce`` at a reduced size: a whole run, resuming, interruption, and what it refuses."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

import retainfirst_lab.reproduce.run as run_module
from retainfirst.cli import main
from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst.files import write_json
from retainfirst_lab.reproduce import QUICK, SmolTier, path, reproduce, workers
from retainfirst_lab.reproduce.attack_design import AttackPart
from retainfirst_lab.reproduce.design import MAIN, Cell, Sizes
from retainfirst_lab.reproduce.guard_design import GUARDS, GuardCell, GuardPart
from retainfirst_lab.reproduce.path import run_cell
from retainfirst_lab.reproduce.smollm2_rows import FILES
from retainfirst_lab.reproduce.store import Store

pytest.importorskip("lm_eval")
pytest.importorskip("matplotlib")

SMALL = replace(
    QUICK,
    seeds=(0,),
    sizes=Sizes(max_steps=60, relearn_rows=6, relearn_steps=3),
    people=6,
    hidden_size=64,
    guard=None,
    attacks=None,
)
TINY = replace(
    SMALL, sizes=replace(SMALL.sizes, max_steps=4), people=2, hidden_size=32, guard=GuardPart(("ga",), MAIN[1:])
)
ONE = ("ga", "sago")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETAINFIRST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    workers._testbed.cache_clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The reduced quick tier, by two processes."""
    folder = tmp_path_factory.mktemp("run") / "out"
    reproduce(SMALL, folder, jobs=2, command="retainfirst reproduce --output out")
    return folder


@pytest.fixture(scope="module")
def results(finished):
    return json.loads((finished / "results.json").read_text())


def strip_times(value):
    """Everything but what the clock says."""
    if isinstance(value, dict):
        return {key: strip_times(item) for key, item in value.items() if key not in ("seconds", "date", "wall_seconds")}
    return [strip_times(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_the_files_are_complete(finished, results):
    assert {path.name for path in finished.iterdir()} == {
        "run.json",
        "cells",
        "results.json",
        "report.md",
        "report.html",
    }
    assert len(list((finished / "cells").iterdir())) == len(results["cells"]) == results["planned"] == 9
    assert (results["tier"], results["seeds"]) == ("quick", [0])
    assert {"torch", "transformers", "python", "retainfirst"} <= set(results["versions"])
    for cell in results["cells"]:
        assert cell["objective"] in ("ga", "npo", "simnpo")
        assert cell["combiner"] in ("sum", "pcgrad", "sago")
        assert set(cell["retain_accuracy"]) == {"covered", "held_out", "unrelated"}
        assert set(cell["cosines"]) == {"same_state", "own_path"}
        assert -1 <= cell["cosines"]["same_state"]["cos_update_retain"] <= 1
        assert cell["path"][0]["forget"] == 1.0
        assert [point["step"] for point in cell["path"]] == list(range(0, 2 * len(cell["path"]), 2))


@pytest.mark.slow
def test_forgetting_is_reached_and_results_are_compared_there(results):
    cells = {(cell["objective"], cell["variant"]): cell for cell in results["cells"]}
    for combiner in ("sum", "pcgrad", "sago"):
        cell = cells["ga", combiner]
        assert cell["reached"]
        assert cell["forget_accuracy"] == pytest.approx(0.30)
        assert cell["path"][-1]["forget"] <= 0.30
    naive, sago = (cells["ga", combiner]["retain_accuracy"]["covered"] for combiner in ("sum", "sago"))
    assert sago >= naive - 0.05


@pytest.mark.slow
def test_the_scores_of_a_path_equal_lm_evals(results):
    assert results["lm_eval_difference"] == 0.0
    for cell in results["cells"]:
        assert len(cell["lm_eval"]["end"]) == 5


@pytest.mark.slow
def test_the_reports_show_every_method_and_need_nothing_else(finished, results):
    text, page = (finished / "report.md").read_text(), (finished / "report.html").read_text()
    for name in ("GA + GD", "NPO + GD", "SimNPO + GD", "naive (sum)", "PCGrad", "SAGO"):
        assert name in text
        assert name in page
    assert "96 %" in text, "the paper's own numbers stand beside ours"
    assert "retainfirst reproduce --output out" in text
    assert page.count("<svg") == 3
    for outside in ("<script", "<link", "src=", "@import"):
        assert outside not in page
    covered = next(cell for cell in results["cells"] if (cell["objective"], cell["variant"]) == ("ga", "sum"))
    assert f"| {covered['retain_accuracy']['covered']:.3f} |" in text


@pytest.mark.slow
def test_results_depend_on_seed_and_settings_alone(finished, results, tmp_path):
    threads = torch.get_num_threads()
    again = reproduce(SMALL, tmp_path / "again", jobs=1, only=ONE)
    assert torch.get_num_threads() == threads
    [cell] = again["cells"]
    [before] = [one for one in results["cells"] if (one["objective"], one["variant"]) == ONE]
    assert cell["cosines"]["same_state"] is None, "the naive cell, from which these come, was not run again"
    assert strip_times(cell["path"]) == strip_times(before["path"])
    assert cell["relearning"] == before["relearning"]


@pytest.mark.slow
def test_an_interrupted_run_resumes(finished, results, tmp_path, monkeypatch):
    """Ctrl-C in the second cell: the first one is kept, nothing half written stays, and only the rest is run later."""
    done = []

    def interrupt(cell, *arguments):
        if done:
            (tmp_path / "out" / "cells" / ".draft.json.1.part").write_text("{")
            raise KeyboardInterrupt
        done.append(cell)
        return stored(cell)

    def stored(cell, *_):
        return json.loads((finished / "cells" / f"{cell.id}.json").read_text())["results"]

    monkeypatch.setattr(workers, "run_cell", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reproduce(SMALL, tmp_path / "out", jobs=1)
    assert [path.name for path in (tmp_path / "out" / "cells").glob("*.json")] == [f"{done[0].id}.json"]
    assert not (tmp_path / "out" / "results.json").exists()

    run, seen = [], []
    monkeypatch.setattr(workers, "run_cell", lambda cell, *_: run.append(cell) or stored(cell))
    reproduce(SMALL, tmp_path / "out", jobs=1, progress=lambda *at: seen.append(at))
    assert len(run) == 8
    assert done[0] not in run
    assert seen[0] == ("choosing settings", 0, 0)
    assert (seen[1], seen[-1]) == (("runs", 1, 9), ("runs", 9, 9))
    assert not list((tmp_path / "out").rglob("*.part"))
    new = json.loads((tmp_path / "out" / "results.json").read_text())
    assert new["cells"] == results["cells"]
    assert new["comparisons"] == results["comparisons"]


def test_a_damaged_cell_is_run_again(tmp_path):
    store = Store(tmp_path / "out", {"tier": "quick"})
    cell = Cell("facts", "ga", "sum", 4.0, 3e-4, 100)
    assert store.read(cell) is None
    store.write(cell, {"path": [float("nan"), 0.12345678]})
    assert store.read(cell) == {"path": [None, 0.123457]}
    store.path(cell).write_text(store.path(cell).read_text()[:-9])
    assert store.read(cell) is None
    store.write(replace(cell, seed=101), {})
    store.path(replace(cell, seed=101)).replace(store.path(cell))
    assert store.read(cell) is None, "another cell's file"


def test_a_cell_resumes_from_its_checkpoint(tmp_path, monkeypatch):
    cell, sizes = Cell("facts", "npo", "sum", 4.0, 3e-4, 0), replace(SMALL.sizes, max_steps=8)
    testbed, train = SMALL.testbed("facts", 0, tmp_path), path.train_step
    monkeypatch.setattr(testbed, "judge", lambda _: {})
    whole = run_cell(cell, testbed, sizes)

    run_cell(cell, testbed, replace(sizes, max_steps=4), tmp_path / "state.pt")
    steps = []
    monkeypatch.setattr(path, "train_step", lambda *found: steps.append(1) or train(*found))
    assert strip_times(run_cell(cell, testbed, sizes, tmp_path / "state.pt")) == strip_times(whole)
    assert len(steps) == 4, "only the rest"
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:5000])
    assert strip_times(run_cell(cell, testbed, sizes, tmp_path / "state.pt")) == strip_times(whole), (
        "damaged: from the start"
    )


@pytest.mark.slow
def test_cells_beyond_the_budget_are_not_begun(finished, tmp_path, monkeypatch):
    clock = [0.0]

    def hour(cell, *_):
        clock[0] += 3600
        return json.loads((finished / "cells" / f"{cell.id}.json").read_text())["results"]

    monkeypatch.setattr(workers, "run_cell", hour)
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock[0])
    found = reproduce(replace(SMALL, minutes=150.0), tmp_path / "out", jobs=1)
    assert (len(found["cells"]), found["planned"]) == (2, 9), "a third one would end at 180 minutes"
    assert "2 of 9" in (tmp_path / "out" / "report.md").read_text()
    found = reproduce(replace(SMALL, minutes=150.0), tmp_path / "out", jobs=1)
    assert len(found["cells"]) == 4


@pytest.mark.parametrize(
    ("variant", "optimizer"),
    [
        ("pcgrad", "adamw"),
        *(pytest.param(*arm, marks=pytest.mark.slow) for arm in (("sago", "adamw"), ("pcgrad", "sgd"))),
    ],
)
def test_a_guarded_cell_measures_every_step_and_changes_it_only_if_enforced(tmp_path, variant, optimizer):
    testbed, sizes = SMALL.testbed("facts", 0, tmp_path), replace(SMALL.sizes, max_steps=6, target=0.01)
    rate = {"adamw": 1e-3, "sgd": 0.1}[optimizer]
    cell = GuardCell("facts", "ga", variant, 4.0, rate, 0, optimizer, "off")
    off, on = (run_cell(replace(cell, guard=guard), testbed, sizes) for guard in ("off", "enforce"))
    assert off["lm_eval"] == {"target": {}, "end": {}}
    assert off["same_state"] == []
    for point in off["path"][1:]:
        assert point["put_back_fraction"] == 0
        assert point["step_opposes_retain"] in (0.0, 0.5, 1.0)
    for point in on["path"][1:]:
        assert point["step_opposes_retain"] == 0
        assert point["put_back_fraction"] > 0
    if optimizer == "adamw":
        plain = run_cell(Cell("facts", "ga", variant, 4.0, rate, 0), Unjudged(testbed), sizes)
        shared = plain["path"][-1].keys() - {"seconds"}
        assert [{name: point[name] for name in point.keys() & shared} for point in off["path"]] == [
            {name: point[name] for name in point.keys() & shared} for point in plain["path"]
        ], "measuring changes nothing"


class Unjudged:
    """A test bed without lm-eval, which takes long."""

    def __init__(self, testbed):
        self._testbed = testbed

    def __getattr__(self, name):
        return getattr(self._testbed, name)

    def judge(self, _):
        return {}

    def judged_target(self):
        return {}


@pytest.mark.slow
def test_the_part_on_the_guard_runs_alone_reports_and_resumes(tmp_path, monkeypatch):
    found = reproduce(TINY, tmp_path / "out", jobs=1, parts=["guard"])
    assert found["cells"] == []
    assert found["planned"] == 0
    cells = found["guard"]["cells"]
    assert len(cells) == len(list((tmp_path / "out" / "cells").iterdir())) == 24
    assert set(found["guard"]["compared"]) == {"common", "equal_steps"}, "nothing is chosen without development seeds"
    enforced = [one for one in cells if one["guard"] == "enforce"]
    assert all(point["step_opposes_retain"] == 0 for one in enforced for point in one["path"][1:])
    text, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    assert "## The guard: retain accuracy at equal forgetting" in text
    assert "runs with a guard: 24;" in text
    assert page.count("<svg") <= 1

    monkeypatch.setattr(workers, "run_cell", lambda *_: pytest.fail("ran a finished cell again"))
    before = json.loads((tmp_path / "out" / "results.json").read_text())
    reproduce(TINY, tmp_path / "out", jobs=1, parts=["guard"])
    assert json.loads((tmp_path / "out" / "results.json").read_text())["guard"] == before["guard"]


@pytest.mark.slow
def test_the_part_on_attacks_runs_alone_reports_and_resumes(tmp_path, monkeypatch):
    part = AttackPart(("ga",), max_steps=40)
    tier, seen = replace(TINY, sizes=replace(TINY.sizes, target=0.99), attacks=part), []
    found = reproduce(tier, tmp_path / "out", jobs=1, parts=["attacks"], progress=lambda *at: seen.append(at))
    assert (seen[0], seen[-1]) == (("choosing settings", 0, 0), ("attacks", 6, 6))
    assert found["cells"] == []
    assert "guard" not in found
    cells = found["attacks"]["cells"]
    assert len(cells) == len(list((tmp_path / "out" / "cells").iterdir())) == 6
    assert {(one["variant"], one["guard"]) for one in cells} == set(product(("sum", "pcgrad", "sago"), GUARDS))
    text, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    assert "## Attacks: the claims" in text
    assert "Verdict: Q4 holds in" in text
    assert "runs under attack: 6;" in text
    assert page.count("<svg") == 1

    monkeypatch.setattr(workers, "attacked", lambda *_: pytest.fail("ran a finished cell again"))
    before = json.loads((tmp_path / "out" / "results.json").read_text())
    one_rule = reproduce(tier, tmp_path / "out", jobs=1, parts=["attacks"], only=["sago"])
    assert [one["variant"] for one in one_rule["attacks"]["cells"]] == ["sago", "sago"]
    reproduce(tier, tmp_path / "out", jobs=1, parts=["attacks"])
    assert json.loads((tmp_path / "out" / "results.json").read_text())["attacks"] == before["attacks"]


def refused(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["retainfirst", "reproduce", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--tier", "quik"), "Did you mean 'quick'"),
        (("--only", "ga,sagoo"), "Did you mean 'sago'"),
        (("--seeds", "1,two"), "whole numbers"),
        (("--seeds", ","), "at least one"),
        (("--tier", "full", "--seeds", "0,100"), "found [0] in both"),
        (("--part", "guards"), "Did you mean 'guard'"),
        (("--part", "attack"), "Did you mean 'attacks'"),
        (("--tier", "smollm2", "--part", "guard"), "smollm2 has no part guard"),
        (("--tier", "smollm2", "--part", "guard,attacks"), "smollm2 has no part guard or attacks"),
        (("--budget", "15"), "belong to the tier smollm2"),
        (("--tier", "smollm2", "--budget", "0"), "above 0"),
    ],
)
def test_bad_use(monkeypatch, capsys, tmp_path, arguments, text):
    assert text in refused(monkeypatch, capsys, "--output", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_output_folders_of_something_else_are_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "holds other files" in refused(monkeypatch, capsys, "--output", tmp_path / "mine")
    (tmp_path / "file").touch()
    assert "is a file" in refused(monkeypatch, capsys, "--output", tmp_path / "file")
    write_json(tmp_path / "run.json", {"tier": "full"})
    assert "is of another run: " in refused(monkeypatch, capsys, "--output", tmp_path)
    (tmp_path / "run.json").write_text("{")
    assert "is damaged" in refused(monkeypatch, capsys, "--output", tmp_path)


@pytest.mark.parametrize(("module", "extra"), [("lm_eval", "eval"), ("matplotlib", "plot"), ("transformers", "hf")])
def test_a_missing_library_is_named_before_anything_is_run(monkeypatch, tmp_path, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(run_module, "finished", lambda *_: pytest.fail("began to run"))
    with pytest.raises(MissingDependency, match=rf"retainfirst\[{extra}\]"):
        reproduce(SMALL, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_raises_and_leaves_no_partial_file(tmp_path, monkeypatch):
    store = Store(tmp_path / "out", {"tier": "quick"})
    cell = Cell("facts", "ga", "sum", 4.0, 3e-4, 100)

    def full(self, *_, **__):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RetainFirstError, match="No space left on device"):
        store.write(cell, {})
    assert not list((tmp_path / "out" / "cells").iterdir())


def test_a_killed_process_raises(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *_, **__):
            pass

        def submit(self, *_):
            raise workers.BrokenProcessPool

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Broken)
    with pytest.raises(RetainFirstError, match="fewer --jobs"):
        reproduce(SMALL, tmp_path / "out", jobs=2)


@pytest.mark.slow
def test_a_folder_takes_more_seeds_but_no_other_sizes(finished, tmp_path):
    identity = json.loads((finished / "run.json").read_text())
    versions = identity.pop("versions")
    assert SMALL.with_seeds([7, 8]).identity() == identity
    with pytest.raises(RetainFirstError, match="people was 6, is 7"):
        Store(finished, {**replace(SMALL, people=7).identity(), "versions": versions})
    assert SmolTier(minutes=20).identity() != SmolTier(minutes=150).identity()


def test_a_folder_of_smollm2_is_of_one_model_and_one_set_of_rows(tmp_path):
    for name in FILES:
        (tmp_path / f"{name}.jsonl").write_text('{"question": "a"}\n')
    (tmp_path / "config.json").write_text("{}")
    tier = SmolTier(model=str(tmp_path), data_dir=tmp_path)
    before = tier.identity()
    assert tier.identity() == before
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    after = tier.identity()
    assert {key for key in after if before[key] != after[key]} == {"model_contents"}
    (tmp_path / "test.jsonl").write_text('{"question": "b"}\n')
    assert tier.identity()["data_contents"] != before["data_contents"]
