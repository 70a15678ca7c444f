"""The benchmarks run, at their smallest, and write what they say they write; no time is judged."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[4] / "python" / "retainfirst_lab" / "scripts"


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_tightness_benchmark(tmp_path, monkeypatch):
    tightness = load("tightness")

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
            assert row["sago_as_t7_foresees"] == 4
    crossing = report["crossing"]
    assert (crossing["seed"], crossing["step"]) == (4, 1)
    assert len(crossing["checks"]) == 8
    assert not any(check["ordered_otherwise_when_stored"] for check in crossing["checks"])
    assert all(-1 <= cosine <= 1 for rule in tightness.RULES for cosine in crossing["cosines"][rule])
    for name in ("crossing.png", "tightness.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
