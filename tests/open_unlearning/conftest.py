"""The real framework, if environment variables name a checkout of it; without one these tests are skipped.

OPEN_UNLEARNING_HOME    an unedited checkout of open-unlearning
OPEN_UNLEARNING_PYTHON  the Python that has what the framework needs (default: the one that runs the tests)
TOFU_HOME               a folder with TOFU's forget10.jsonl and retain90.jsonl (default: made-up rows)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import commands
import pytest

import strangers

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Framework:
    """A checkout, the Python that runs it, and files for it."""

    home: Path
    python: str
    workspace: Path
    transformers: str = ""
    accelerate: str = ""

    def train(self, trainer: str, output: Path, *more: str, launch: Sequence[str] = (), sweep: bool = False) -> Done:
        """Run the framework's own command in its folder. A sweep runs one job for each value that an override lists."""
        overrides = commands.overrides(trainer, self.workspace, output, self.transformers)
        flags = ["--multirun", f"hydra.sweep.dir={self.workspace}/sweep"] if sweep else []
        return self.call(*launch, "src/train.py", "--config-name=unlearn.yaml", *flags, *overrides, *more)

    def inside(self, question: str, cases: Sequence[str]) -> dict[str, dict]:
        """Ask a question of ``inside.py`` for several cases, in one process."""
        answer = self.workspace / f"{question}.json"
        done = self.call(str(HERE / "inside.py"), str(self.home), str(self.workspace), str(answer), question, *cases)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return json.loads(answer.read_text())

    @property
    def programs(self) -> str:
        """PATH with the folder of that Python first."""
        return f"{Path(self.python).parent}{os.pathsep}{os.environ['PATH']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process of the framework needs beside the variables of this one."""
        paths = [ROOT / "plugin/src", ROOT / "python", HERE.parent, self.workspace / "packages"]
        return {
            "PATH": self.programs, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(self.workspace / "cache"),
            "TOKENIZERS_PARALLELISM": "false", "DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0", "HYDRA_FULL_ERROR": "1",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def call(self, *arguments: str) -> Done:
        environment = os.environ | self.environment
        return subprocess.run(
            [self.python, *arguments], cwd=self.home, env=environment, capture_output=True, text=True, timeout=1800
        )


@pytest.fixture(scope="session")
def framework(tmp_path_factory):
    given = os.environ.get("OPEN_UNLEARNING_HOME")
    if not given:
        pytest.skip(
            "OPEN_UNLEARNING_HOME names no checkout of open-unlearning, so nothing ran against the real framework"
        )
    tofu = os.environ.get("TOFU_HOME")
    workspace = tmp_path_factory.mktemp("open_unlearning")
    commands.write_rows(workspace, Path(tofu).resolve() if tofu else None)
    (workspace / "packages").mkdir()
    strangers.write_package(workspace / "packages", "in_a_package")
    home = Path(given).resolve()
    made = Framework(home, os.environ.get("OPEN_UNLEARNING_PYTHON", sys.executable), workspace)
    done = made.call(str(HERE / "make_model.py"), str(workspace / "model"))
    assert done.returncode == 0, done.stderr[-3000:]
    transformers, accelerate = done.stdout.split()[-2:]
    return replace(made, transformers=transformers, accelerate=accelerate)
