"""Small files in RWKU's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retainfirst_open_unlearning.rwku_data import PROBES

SUBJECTS = {3: "Ada Hart", 12: "Bo Lind", 40: "Cy Noor"}
KINDS = ("prefix injection", "incontext learning", "affirmative suffix")


def probes_of(subject: str, probe: str) -> list[dict[str, Any]]:
    """Return one probe of each kind that the level has; the answer is "in <subject>"."""
    level = probe[-1]
    query = f"{subject} was born in ___." if level == "1" else f"Where was {subject} born?"
    kinds = KINDS if level == "3" else ("cloze" if level == "1" else "simple question",)
    return [
        {"subject": subject, "level": level, "query": query, "answer": f"in {subject}", "type": kind} for kind in kinds
    ]


def write_by_subject(root: Path) -> Path:
    """Write a folder for each subject, like RWKU's preparation script."""
    for number, subject in SUBJECTS.items():
        folder = root / f"{number}_{subject.replace(' ', '_')}"
        folder.mkdir(parents=True)
        passages = [{"subject": subject, "text": f"{subject} wrote {count}."} for count in range(2)]
        (folder / "passage.json").write_text(json.dumps(passages))
        for probe in PROBES:
            (folder / f"{probe}.json").write_text(json.dumps(probes_of(subject, probe)))
    return root


def write_flat(root: Path) -> Path:
    """Write one file for each set of probes, with all subjects."""
    root.mkdir()
    for probe in PROBES:
        rows = [row for subject in SUBJECTS.values() for row in probes_of(subject, probe)]
        (root / f"{probe}.json").write_text(json.dumps(rows))
    return root
