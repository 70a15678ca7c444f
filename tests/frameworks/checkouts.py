"""A checkout of somebody's code base, and what its tests have in common."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WORDS = (
    "the",
    "river",
    "anna",
    "stone",
    "house",
    "ran",
    "under",
    "night",
    "of",
    "a",
    "then",
    "old",
    "green",
    "bell",
    "stood",
)


@dataclass(frozen=True)
class CodeBase:
    """A checkout, the Python that runs it, and a folder with files for it."""

    home: Path
    python: str
    workspace: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.workspace / "tiny-model"

    def run(self, *command: str, cwd: Path, **environment: str) -> str:
        """Run a command of that Python, and return what it wrote; ``environment`` adds to the process's."""
        paths = [HERE / "harness", ROOT / "python", HERE.parent]
        given = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": os.pathsep.join([str(self.workspace / "bin"), str(Path(self.python).parent), os.environ["PATH"]]),
            "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(self.workspace / "cache"),
            "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            **self.environment, **environment,
        }  # fmt: skip
        done = subprocess.run([self.python, *command], cwd=cwd, env=given, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def compare(self, record: Path, *arguments: str) -> dict:
        """Compare a recorded first step with one that ``independent.py`` computes from formulas."""
        found = self.run(str(HERE / "independent.py"), str(self.model), str(record), *arguments, cwd=self.workspace)
        answer = json.loads(next(line for line in found.splitlines() if line.startswith("{")))
        assert answer["begins"]
        assert answer["names"]
        assert answer["size"] > 1e-3
        return answer


def launch(combiner: str | None, *options: str) -> list[str]:
    """Return what comes before a script: nothing in the code base's own run."""
    return [] if combiner is None else ["-m", "retainfirst.run", "--combiner", combiner, *options]


def text(seed: int, words: int) -> str:
    """Return some words, always the same for a seed."""
    return " ".join(WORDS[(seed * 7 + i * i + i // 3) % len(WORDS)] for i in range(words))


def same(first: Path, second: Path) -> bool:
    """Return whether two saved models are equal to the bit."""
    from safetensors.torch import load_file

    ours, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
