"""Output folders that another run has taken."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from retainfirst.errors import RetainFirstError
from retainfirst_open_unlearning.output import check_output


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Return a function that makes this process a job of a sweep."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()

    def become(number, mode=RunMode.MULTIRUN):
        runtime, job = {"cwd": str(tmp_path)}, {"num": number}
        config = OmegaConf.create({"mode": mode, "runtime": runtime, "sweep": {"dir": "sweep"}, "job": job})
        monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
        monkeypatch.setattr(HydraConfig, "get", lambda: config)

    return become


def test_the_page_gives_each_job_of_a_sweep_a_name_of_its_own():
    lines = (Path(__file__).parents[2] / "docs" / "open-unlearning.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("$ ") and "--multirun" in line]
    assert commands
    for command in commands:
        swept = [word.partition("=")[0] for word in command.split() if "," in word]
        assert swept
        assert all(re.search(rf"'task_name=\S*\$\{{{re.escape(name)}\}}", command) for name in swept), command


def test_two_jobs_of_a_sweep_in_one_folder(sweep, tmp_path):
    sweep(0)
    check_output(str(tmp_path / "out"))
    check_output(str(tmp_path / "out"))  # the job is run again
    sweep(1)
    check_output(str(tmp_path / "other"))
    with pytest.raises(
        RetainFirstError, match="job 1 of this sweep would replace the model of job 0 in .*out: .*task_name="
    ):
        check_output(str(tmp_path / "out"))
    later = (tmp_path / "sweep" / "multirun.yaml").stat().st_mtime + 100
    os.utime(tmp_path / "sweep" / "multirun.yaml", (later, later))
    check_output(str(tmp_path / "out"))  # a later sweep with the same sweep.dir


def test_a_folder_of_a_finished_run(sweep, tmp_path, caplog):
    sweep(0, RunMode.RUN)
    check_output(str(tmp_path))
    assert not caplog.text
    (tmp_path / "trainer_state.json").touch()
    check_output(str(tmp_path))
    assert f"{tmp_path} has the model of an earlier run" in caplog.text
    assert not (tmp_path / "sweep" / ".outputs").exists()
