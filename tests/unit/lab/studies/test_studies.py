"""The studies run, at their smallest, and write what they say they write; no time is judged."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import retainfirst as rf
from retainfirst.errors import RetainFirstError
from retainfirst_lab.real_gradients import RealStep
from retainfirst_lab.studies import (
    engines,
    gpu,
    gpu_checks,
    gpu_llama,
    gpu_setting,
    gpu_times,
    optimisers,
    tightness,
    toward_retain,
)


def test_toward_retain(tmp_path, monkeypatch):
    monkeypatch.setattr(toward_retain, "SIZES", (1000,))
    arguments = ["--rounds", "2", "--draws", "40", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["toward_retain.py", *arguments])
    toward_retain.main()
    report = json.loads((tmp_path / "out.json").read_text())
    dtypes = ["bfloat16", "float16", "float32"]
    assert [row["dtype"] for row in report["times"]] == dtypes
    assert all(row[column]["median"] > 0 for row in report["times"] for column in ("cpu_ratio", "wall_ratio"))
    assert [(row["dtype"], row["ratio"]) for row in report["shares"]] == [
        (d, r) for d in dtypes for r in toward_retain.RATIOS
    ]
    assert all(row["with"] == 0 and row["conflicting"] > 0 for row in report["shares"])
    assert any(row["without"] > 0 for row in report["shares"])
    times, shares = toward_retain.tables(report)
    assert (len(times.rows), len(shares.rows)) == (3, 12)


def test_tightness(tmp_path, monkeypatch):
    def gradients(steps, seed):
        """Conflict at odd steps only; the facts model, which a fresh machine would have to train, is not needed."""
        generator = torch.Generator().manual_seed(seed)
        for step in range(1, steps + 1):
            retain, noise = torch.randn(2, 200, generator=generator)
            yield {"a": (noise + (-1) ** step * retain, retain), "zero": (torch.zeros(3), torch.ones(3))}

    monkeypatch.setattr(tightness, "facts_gradients", gradients)
    monkeypatch.setattr(tightness, "CURVE", (1e-3, 1.0, 1e3))
    arguments = ["--steps", "3", "--seeds", "4", "5", "--figures", str(tmp_path), "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["tightness.py", *arguments])
    tightness.main()
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["tensors_left_out"] == 6
    assert [row["conflict"] for row in report["rows"]] == [True, False, True] * 2
    for row in report["shares"]:
        assert row["cases"] == (4 if row["conflict"] else 2)
        assert sum(row["sago"][order] for order in tightness.ORDERS.values()) == row["cases"]
        assert row["sago_keep_retain"]["looser"] == 0
        expected = [seen["crossing_point"] < row["l"] for seen in report["rows"] if seen["conflict"]]
        if row["unit"] == "model" and row["conflict"]:
            assert row["sago"]["tighter"] == sum(expected)
            assert row["sago_as_t7_predicts"] == 4
    crossing = report["crossing"]
    assert (crossing["seed"], crossing["step"]) == (4, 1)
    assert len(crossing["checks"]) == 8
    assert not any(check["ordered_otherwise_when_stored"] for check in crossing["checks"])
    assert all(-1 <= cosine <= 1 for name in tightness.COMBINERS for cosine in crossing["cosines"][name])
    for name in ("crossing.png", "tightness.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_optimisers(tmp_path, monkeypatch):
    """The table and its pages; a run of one parameter stands in for the facts model."""
    asked = []

    def steps(most, seed, combiner, make):
        asked.append((combiner.name, combiner.gamma, seed))
        parameter = torch.zeros(1, 2, requires_grad=True)
        optimizer = make([parameter])
        f, r = torch.tensor([[5.0, -5.0]]), torch.tensor([[1.0, 2.0]])
        for number in range(most):
            update = rf.combine(f, r, combiner)
            parameter.grad, before = update.clone(), parameter.detach().clone()
            optimizer.step()
            accuracy = 0.3 if number == 1 else 0.9
            yield RealStep({"p": (f, r)}, {"p": update}, {"p": before}, {"p": parameter.detach().clone()}, accuracy)

    monkeypatch.setattr(optimisers, "facts_steps", steps)
    monkeypatch.setattr(optimisers, "_PAIRS", 200)
    kept = ("SGD", "RMSprop", "Adam")
    monkeypatch.setattr(optimisers, "OPTIMISERS", {name: optimisers.OPTIMISERS[name] for name in kept})
    monkeypatch.setattr(
        optimisers, "COMBINERS", {name: optimisers.COMBINERS[name] for name in ("sum", "pcgrad, global", "sago")}
    )
    monkeypatch.setattr(optimisers, "SHORT", (("SGD", "Adam"), ("sum", "sago")))
    page, short = tmp_path / "page.md", tmp_path / "short.md"
    for file in (page, short):
        file.write_text("above\n<!-- begin optimisers -->\n<!-- end optimisers -->\nbelow\n")
    arguments = ["--steps", "5", "--seeds", "3", "4", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["optimisers.py", *arguments, "--write", str(page), "--write-short", str(short)])
    optimisers.main()
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["cells"]) == 9
    assert {(gamma, seed) for _, gamma, seed in asked} == {(4.0, 3), (4.0, 4)}
    cells = {(one["optimiser"], one["combiner"]): one for one in report["cells"]}
    assert all(one["steps"] == 4 for one in cells.values())  # two runs, each ended by the forget accuracy
    verdicts = {key: (one["first"], one["every"]) for key, one in cells.items()}
    assert verdicts["SGD", "sago"] == verdicts["RMSprop", "sago"] == ("proved", "proved")
    assert verdicts["Adam", "sago"] == ("proved", "refuted")
    assert verdicts["SGD", "sum"] == ("refuted", "refuted")
    assert verdicts["SGD", "pcgrad, global"] == ("exact arithmetic", "exact arithmetic")
    assert verdicts["RMSprop", "pcgrad, global"] == ("refuted", "refuted")
    assert cells["RMSprop", "pcgrad, global"]["opposing_steps"] == 4
    assert (
        cells["RMSprop", "pcgrad, global"]["opposing_updates"] == cells["SGD", "pcgrad, global"]["opposing_steps"] == 0
    )
    text = page.read_text()
    assert "| SGD | refuted; 100 % | exact; 0 % | proved; 0 % |" in text
    assert "| Adam | refuted; 100 % | refuted; 100 % | first step proved; 0 % |" in text
    assert "| none: the update itself | refuted; 100 % | exact; 0 % | proved; 0 % |" in text
    assert "| any, with the guard | proved | proved | proved |" in text
    assert "| optimiser | `sum` | `sago` |" in short.read_text()
    assert "RMSprop" not in short.read_text()


def test_a_verdict_of_the_optimisers_needs_a_proof_or_a_counterexample(monkeypatch):
    monkeypatch.setattr(optimisers, "_PAIRS", 20)
    unproved = replace(optimisers.OPTIMISERS["SGD"], kept="none", scaled="none")
    with pytest.raises(RetainFirstError, match="sago, first step: neither proved nor refuted by 20 pairs"):
        optimisers._verdict(unproved, "sago", "first")


def test_a_diverged_run_of_the_optimisers_ends(monkeypatch):
    one = {"p": torch.ones(2)}
    broken = RealStep({"p": (one["p"], one["p"] * torch.nan)}, one, one, one, 0.25)
    monkeypatch.setattr(optimisers, "facts_steps", lambda *_: iter([broken]))
    found = optimisers._shares("SGD", "sum", 5, [0])
    assert (found["steps"], found["forget_accuracy"]) == (0, [0.25])


@pytest.fixture
def tiny_gpu_study(monkeypatch):
    """A few cases on the CPU, without Triton."""
    monkeypatch.setattr(gpu_times, "SIZES", (10**5,))
    monkeypatch.setattr(gpu_times, "COUNT", 3)
    monkeypatch.setattr(gpu_checks, "DTYPES", (torch.bfloat16,))
    return gpu_setting.Setting(torch.device("cpu"), rounds=1, scale=1e-5)


@pytest.mark.slow
def test_gpu(tiny_gpu_study, tmp_path):
    report = gpu.measure(tiny_gpu_study, ["check", "sync", "huge", "combiners", "peers", "list"], tmp_path / "out.json")
    assert report["failed"] == []
    assert json.loads((tmp_path / "out.json").read_text())["seconds"].keys() == report["seconds"].keys()
    assert not [row for row in report["check"] if row["differing"]], "the CPU has the CPU's bits"
    assert set(report["sync"].values()) == {"no wait"}
    assert report["sync"].keys() >= {*gpu_setting.CASES, "pcgrad block"}
    assert report["huge"]["part 0"]["differing"] == 0
    assert [row["combiner"] for row in report["combiners"][:5]] == ["sum", "sago", "sago_keep_retain", "pcgrad", "blur"]
    assert all(row["seconds"] > 0 and row["share_of_copy"] > 0 for row in report["combiners"] + report["peers"])
    assert {row["what"] for row in report["list"]} == {"flat", "tensors of any size", "tensors of multiples of 16"}
    tables = gpu.tables(report)
    assert [table.title for table in tables] == ["check", "sync", "huge", "combiners", "peers", "list"]
    assert gpu.remarks(report)[0] == "Checks with wrong bits: 0. Sections that failed: none."


def test_a_section_of_the_gpu_study_may_fail(tiny_gpu_study, monkeypatch, capsys):
    monkeypatch.setitem(gpu.SECTIONS, "sync", lambda _: 1 / 0)
    report = gpu.measure(tiny_gpu_study, ["sync", "huge"])
    assert report["failed"] == ["sync"]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert [table.title for table in gpu.tables(report)] == ["huge"]
    with pytest.raises(RetainFirstError, match="Did you mean 'sync'"):
        gpu.measure(tiny_gpu_study, ["synk"])


def test_engines(tmp_path, monkeypatch):
    """The tables; the processes themselves are those of the tests of the engines."""
    with pytest.raises(RetainFirstError, match="Run this in a checkout"):
        engines.equality_table(engines.SCRIPTS, tmp_path)
    (tmp_path / "processes.py").write_text(
        "from retainfirst_lab.studies.engines import COMBINERS, SCRIPTS\n"
        "def run(script, world):\n"
        "    ranks = {p + c: {'error': world * 1e-9} for p in SCRIPTS[script] for c in COMBINERS}\n"
        "    return [ranks] * world\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "processes", raising=False)
    monkeypatch.setattr(engines.engines_cost, "measure", lambda *_: {"traffic": 2.0, "peak": 1.5})
    page = tmp_path / "engines.md"
    page.write_text((Path(__file__).parents[4] / "docs" / "engines.md").read_text())
    monkeypatch.setattr(sys, "argv", ["engines.py", "--write", str(page), "--tests", str(tmp_path)])
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    engines.main()
    sys.modules.pop("processes")
    text = page.read_text()
    assert "| combiner, scope | DDP | FSDP | fully_shard |" in text
    assert "| pcgrad block | 3.0e-09 | 3.0e-09 | 3.0e-09 |" in text
    assert "| fully_shard | pcgrad | 2.00 | 1.50 |" in text


def test_gpu_llama(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_llama, "_ROWS", 1)
    monkeypatch.setattr(gpu_llama, "_LENGTH", 8)
    arguments = ["--device", "cpu", "--parameters", "1e5", "--rounds", "1", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["gpu_llama.py", *arguments])
    gpu_llama.main()
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["way"] for row in report["rows"]] == ["plain", "copies", *gpu_llama.WAYS]
    plain = gpu_llama.table(report).rows[0]
    assert plain[2:] == ["1.00", "-"]  # a CPU's peak is not measured
