"""Make the wheel for every platform from the wheel for one: the same files without the compiled extension.

pip prefers a wheel for the platform, and takes this one where there is none, so that it never builds from source.

Usage: python release/universal_wheel.py dist/retainfirst-VERSION-cp311-abi3-PLATFORM.whl [FOLDER]
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import sys
import zipfile
from pathlib import Path

__all__ = ["universal"]

_COMPILED = (".so", ".pyd", ".dylib")


def universal(wheel: Path, folder: Path) -> Path:
    """Write the wheel for every platform to a folder and return its path."""
    name, version, *_ = wheel.stem.split("-")
    records = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}
    compiled = [file for file in files if file.endswith(_COMPILED)]
    if len(compiled) != 1:
        sys.exit(f"{wheel}: there should be one compiled extension, but found {compiled}")
    # The list of Rust crates (sboms) is about the extension.
    left_out = (*compiled, f"{records}/RECORD", f"{records}/sboms/")
    kept = {file: content for file, content in files.items() if not file.startswith(left_out)}
    kept[f"{records}/WHEEL"] = _tags(kept[f"{records}/WHEEL"].decode())
    kept[f"{records}/RECORD"] = _record(kept, f"{records}/RECORD")
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in kept.items():
            archive.writestr(zipfile.ZipInfo(file), content, zipfile.ZIP_DEFLATED)
    return target


def _tags(text: str) -> bytes:
    """Return the file WHEEL with the tag of every platform."""
    kept = [line for line in text.splitlines() if line and not line.startswith(("Tag:", "Root-Is-Purelib:"))]
    return "\n".join([*kept, "Root-Is-Purelib: true", "Tag: py3-none-any", ""]).encode()


def _record(files: dict[str, bytes], own: str) -> bytes:
    """Return the list of all files with their checksums and sizes."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for file, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow([file, f"sha256={digest}", len(content)])
    rows.writerow([own, "", ""])
    return text.getvalue().encode()


if __name__ == "__main__":
    given = Path(sys.argv[1])
    print(universal(given, Path(sys.argv[2]) if len(sys.argv) > 2 else given.parent))
