"""The benchmarks run, at their smallest, and write what they say they write; no time is judged."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_step_benchmark(tmp_path, monkeypatch):
    step = load("step")
    monkeypatch.setattr(step, "LENGTH", 4)
    monkeypatch.setattr(step, "MICRO_BATCHES", (1,))
    monkeypatch.setattr(step, "run_peak", lambda *_: 1.0)
    monkeypatch.setattr("sys.argv", ["step.py", "--rounds", "1", "--json", str(tmp_path / "out.json")])
    step.main()
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["rule"] for row in report["rows"]] == list(step.RULES)
    assert all(row["cpu_ratio"]["median"] > 0 for row in report["rows"])
    assert 40e6 < report["parameters"] < 60e6


def test_toward_retain_benchmark(tmp_path, monkeypatch):
    toward = load("toward_retain")
    monkeypatch.setattr(toward, "SIZES", (1000,))
    arguments = ["--rounds", "2", "--draws", "40", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["toward_retain.py", *arguments])
    toward.main()
    report = json.loads((tmp_path / "out.json").read_text())
    dtypes = ["bfloat16", "float16", "float32"]
    assert [row["dtype"] for row in report["times"]] == dtypes
    assert all(row[column]["median"] > 0 for row in report["times"] for column in ("cpu_ratio", "wall_ratio"))
    assert [(row["dtype"], row["ratio"]) for row in report["shares"]] == [(d, r) for d in dtypes for r in toward.RATIOS]
    assert all(row["with"] == 0 and row["conflicting"] > 0 for row in report["shares"])
    assert any(row["without"] > 0 for row in report["shares"])
