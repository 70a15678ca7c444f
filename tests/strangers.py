"""Combiners that a user wrote: in a file, and in an installed package with an entry point."""

from __future__ import annotations

from pathlib import Path

_CODE = """
from dataclasses import dataclass

import retainfirst as rf


@rf.register("{name}")
@dataclass(frozen=True)
class Mine(rf.ElementwiseCombiner):
    share: float = 0.5

    def formula(self, forget, retain):
        return self.alpha * retain + self.share * self.gamma * forget
"""


def write_file(folder: Path, name: str) -> str:
    """Write a file with a combiner of that name, which has the option ``share``; return what ``make_combiner`` takes."""
    file = folder / f"rules_{name}.py"
    file.write_text(_CODE.format(name=name))
    return f"{file}:{name}"


def write_package(folder: Path, name: str) -> None:
    """Install a package with such a combiner into a folder, which then goes into ``PYTHONPATH``."""
    (folder / f"package_{name}.py").write_text(_CODE.format(name=name))
    metadata = folder / f"package_{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: package_{name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[retainfirst.combiners]\n{name} = package_{name}:Mine\n")
