"""The docstrings' cross-references become links on the site."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

markdown = pytest.importorskip("markdown")


@pytest.fixture(scope="module")
def roles():
    path = Path(__file__).parents[2] / "docs" / "_hooks" / "roles.py"
    spec = importlib.util.spec_from_file_location("roles", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (":func:`retainfirst.combine`", "[<code>retainfirst.combine</code>][retainfirst.combine]"),
        (":class:`~retainfirst.TwoTaskStep`", "[<code>TwoTaskStep</code>][retainfirst.TwoTaskStep]"),
        (":class:`Case`", "<code>Case</code>"),
        (":mod:`retainfirst.kernels._passes`", "<code>retainfirst.kernels._passes</code>"),
        (":data:`retainfirst.moments.COLUMNS`", "<code>retainfirst.moments.COLUMNS</code>"),
        ("and needs no import::", "and needs no import:"),
    ],
)
def test_a_role_becomes_a_link_where_its_target_is_public(roles, text, shown):
    assert markdown.markdown(text, extensions=[roles.makeExtension()]) == f"<p>{shown}</p>"
