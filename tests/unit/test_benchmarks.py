"""The benchmarks run, at their smallest, and write what they say they write; no time is judged."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step.py"


def test_step_benchmark(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("step_benchmark", SCRIPT)
    step = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(step)
    monkeypatch.setattr(step, "LENGTH", 4)
    monkeypatch.setattr(step, "MICRO_BATCHES", (1,))
    monkeypatch.setattr(step, "run_peak", lambda *_: 1.0)
    monkeypatch.setattr("sys.argv", ["step.py", "--rounds", "1", "--json", str(tmp_path / "out.json")])
    step.main()
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["rule"] for row in report["rows"]] == list(step.RULES)
    assert all(row["cpu_ratio"]["median"] > 0 for row in report["rows"])
    assert 40e6 < report["parameters"] < 60e6
