"""The cache of facts models.

An entry is a folder that appears whole or not at all, with a manifest of checksums: an interrupted build leaves no entry, and a
damaged entry is detected.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path

from retainfirst.errors import RetainFirstError, require
from retainfirst.files import whole_folder, write_json
from retainfirst_lab.tasks._facts_model import train
from retainfirst_lab.tasks._facts_rows import FactsConfig, write_files
from retainfirst_lab.tasks._portable import save_portable

__all__ = ["cache_root", "ensure"]

LAYOUT = 1
"""The version of the entries. Increase it if the words, the training or the files change; older entries are then ignored."""

MANIFEST = "manifest.json"


def cache_root() -> Path:
    """Return the folder of all entries.

    It is ``$RETAINFIRST_CACHE`` if that is set, else the folder ``retainfirst`` in the user's cache folder:
    ``~/.cache`` on Linux (or ``$XDG_CACHE_HOME``), ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Raises:
        MissingDependency: platformdirs is not installed (extra ``hf``).
    """
    chosen = os.environ.get("RETAINFIRST_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(require("platformdirs", "hf").user_cache_path("retainfirst", appauthor=False, opinion=False))


def ensure(config: FactsConfig, *, progress: bool) -> Path:
    """Return the folder of an intact entry; a missing or damaged one is built first."""
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
    if not _is_intact(folder):
        _remove(folder)
        _build(folder, config, key, progress=progress)
    return folder


def _build(folder: Path, config: FactsConfig, key: dict[str, object], *, progress: bool) -> None:
    model, tokenizer = train(config, progress=progress)
    try:
        with whole_folder(folder) as draft:
            save_portable(model, tokenizer, draft)
            write_files(config, draft)
            files = {path.name: _checksum(path) for path in sorted(draft.iterdir())}
            write_json(draft / MANIFEST, {"key": key, "files": files})
    except (OSError, RetainFirstError):
        if not _is_intact(folder):  # otherwise another process has built the same entry
            raise


def _is_intact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(_checksum(folder / name) == digest for name, digest in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove(folder: Path) -> None:
    """Remove a damaged entry. It is renamed first, so that no other process sees it half removed."""
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
