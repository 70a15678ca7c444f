"""Where implanted facts models are kept between runs.

An entry is a folder written beside its final place and renamed at the end, with a manifest of checksums, so
that an interrupted build leaves nothing that could be taken for a model and a damaged entry is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import uuid
from dataclasses import asdict
from pathlib import Path

from retainfirst.errors import RetainFirstError, require
from retainfirst_lab.tasks._folders import save_portable, whole_folder
from retainfirst_lab.tasks.facts import FactsConfig, implant, write_files

__all__ = ["cache_root", "ensure"]

LAYOUT = 1
"""Raise it when the words, the training or the files of an entry change: older entries are left aside."""

MANIFEST = "manifest.json"


def cache_root() -> Path:
    """Return the folder of all entries: ``$RETAINFIRST_CACHE`` or the platform's cache folder."""
    chosen = os.environ.get("RETAINFIRST_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "retainfirst"


def ensure(config: FactsConfig, *, progress: bool) -> Path:
    """Return a sound entry, building it first if need be; see ``retainfirst_lab.tasks.facts.cached_folder``."""
    transformers = require("transformers", "hf")
    torch = require("torch", "hf")
    key = {
        "layout": LAYOUT,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "config": asdict(config),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_root() / f"facts-{digest}"
    if not _is_sound(folder):
        _set_aside(folder)
        _build(folder, config, key, progress=progress)
    return folder


def _build(folder: Path, config: FactsConfig, key: dict[str, object], *, progress: bool) -> None:
    model, tokenizer = implant(config, progress=progress)
    try:
        with whole_folder(folder) as draft:
            save_portable(model, tokenizer, draft)
            write_files(config, draft)
            files = {path.name: _checksum(path) for path in sorted(draft.iterdir())}
            manifest = json.dumps({"key": key, "files": files}, indent=2)
            (draft / MANIFEST).write_text(manifest + "\n", encoding="utf-8")
    except (OSError, RetainFirstError):
        if not _is_sound(folder):  # else another process has put the same entry there meanwhile
            raise


def _is_sound(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(_checksum(folder / name) == digest for name, digest in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _set_aside(folder: Path) -> None:
    """Remove a damaged entry; the rename keeps other processes from seeing it half removed."""
    if not folder.exists():
        return
    doomed = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    if doomed.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink()
