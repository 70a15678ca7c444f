"""Check that all versions agree: the workspace's in Cargo.toml, which the package has too, the plugin's and the citation's.

Usage: python release/versions.py [--tag v0.2.0]
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

__all__ = ["versions"]

ROOT = Path(__file__).parents[1]


def versions() -> dict[str, str]:
    """Return the version in each file that has one."""
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    plugin = tomllib.loads((ROOT / "plugin" / "pyproject.toml").read_text(encoding="utf-8"))
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "Cargo.toml": cargo["workspace"]["package"]["version"],
        "plugin/pyproject.toml": plugin["project"]["version"],
        "CITATION.cff": citation[1] if citation else "none",
    }


if __name__ == "__main__":
    found = versions()
    if "--tag" in sys.argv:
        found["the tag"] = sys.argv[sys.argv.index("--tag") + 1].removeprefix("v")
    if len(set(found.values())) > 1:
        sys.exit("The versions differ: " + ", ".join(f"{name} has {version}" for name, version in found.items()))
    print(found["Cargo.toml"])
