"""Two runs of ``retainfirst reproduce`` at once, on one cache of models that is still empty."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from retainfirst_lab.reproduce import QUICK, reproduce
from retainfirst_lab.reproduce.design import Sizes

pytest.importorskip("lm_eval")
pytest.importorskip("matplotlib")

TINY = replace(
    QUICK,
    seeds=(0,),
    sizes=Sizes(max_steps=4, relearn_rows=2, relearn_steps=1),
    people=2,
    hidden_size=32,
    guard=None,
    attacks=None,
)
_barriers = []


def run(folder: Path) -> list[dict[str, float]]:
    """One run, in a process of its own; returns the path of its only cell."""
    _barriers[0].wait()
    return reproduce(TINY, folder, jobs=1, only=["ga", "sago"])["cells"][0]["path"]


def share(barrier) -> None:
    """What a process is given when it starts."""
    _barriers.append(barrier)


@pytest.mark.slow
def test_two_runs_share_an_empty_cache(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RETAINFIRST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=share, initargs=(context.Barrier(2, timeout=300),)) as pool:
        paths = list(pool.map(run, [tmp_path / "one", tmp_path / "two"]))
    for path in paths:
        for point in path:
            del point["seconds"]
    assert paths[0] == paths[1]
    assert len(paths[0]) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 1, "one model, and no draft of it"
    assert (tmp_path / "two" / "report.html").is_file()
    assert "fatal" not in capfd.readouterr().err, "lm-eval asks git, which complains outside a checkout"
