"""Generated text in a page that people edit.

The page has a line ``<!-- begin NAME -->`` and a line ``<!-- end NAME -->``; the text between them is generated.
"""

from __future__ import annotations

from pathlib import Path

from retainfirst.errors import RetainFirstError
from retainfirst.files import write_whole

__all__ = ["insert", "rewrite"]


def insert(page: str, name: str, text: str) -> str:
    """Return a page with ``text`` between its markers, in place of what stood there.

    Args:
        page: The page's text.
        name: Of the markers.
        text: What to put between them.

    Raises:
        RetainFirstError: The page has no such markers.
    """
    begin, end = (f"<!-- {word} {name} -->\n" for word in ("begin", "end"))
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise RetainFirstError(f"The page has no place for {name}: lines {begin.strip()} and {end.strip()}.")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


def rewrite(file: Path, name: str, text: str) -> None:
    """Put ``text`` between the markers of a file.

    Raises:
        RetainFirstError: The file has no such markers, or cannot be written.
    """
    write_whole(file, insert(file.read_text(encoding="utf-8"), name, text))
