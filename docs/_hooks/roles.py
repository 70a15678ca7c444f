"""Docstrings' cross-references (``:func:`name```) as links to the pages of the API, and their ``::`` as a colon."""

from __future__ import annotations

import re
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

_ROLE = re.compile(r":(func|class|meth|attr|mod|data|exc):`(~?)([\w.]+)`")


def _link(match: re.Match[str]) -> str:
    role, short, target = match.groups()
    shown = target.rpartition(".")[2] if short else target
    public = target.startswith("retainfirst.") and not any(part.startswith("_") for part in target.split("."))
    return f"[`{shown}`][{target}]" if public and role != "data" else f"`{shown}`"


class _Roles(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return [_ROLE.sub(_link, re.sub(r"(?<=\w)::$", ":", line)) for line in lines]


class Roles(Extension):
    """The extension; mkdocs.yml names it."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Markdown's name
        """Read each text through the replacement before anything else does."""
        md.preprocessors.register(_Roles(md), "docstring_roles", 100)


def makeExtension(**options: Any) -> Roles:  # noqa: N802 - Markdown's name
    """Return the extension."""
    return Roles(**options)
