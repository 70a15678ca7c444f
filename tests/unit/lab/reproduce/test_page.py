"""The tables of a run in a page."""

import json

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst_lab.reproduce.attack_design import AttackPart
from retainfirst_lab.reproduce.attack_results import attack_results
from retainfirst_lab.reproduce.guard_results import guard_results
from retainfirst_lab.reproduce.page import main


@pytest.fixture
def run(tmp_path):
    """The file of a run of two parts, in which no cell forgot enough."""
    late = {
        "steps": 200, "before": {"forget": 1.0}, "after": {"forget": 0.9, "covered": 1.0}, "moved_codes": 0.1,
        "quantised": {name: {"forget": 0.9} for name in ("8 bits", "8 bits, groups", "4 bits", "4 bits, groups")},
        "relearning": {"regained": 0.2},
    }  # fmt: skip
    cells = AttackPart(("ga",)).cells("facts", [200])
    file = tmp_path / "results.json"
    found = {
        "tier": "quick", "cells": [], "planned": 0, "seeds": [200], "development_seeds": [], "command": "the command",
        "date": "today", "versions": {}, "machine": {"processor": "a", "cores": 2, "threads": 1}, "wall_seconds": 60.0,
        "identity": {"sizes": {"target": 0.3}}, "guard": guard_results([], ()),
        "attacks": attack_results(dict.fromkeys(cells, late), 0.3),
    }  # fmt: skip
    file.write_text(json.dumps(found))
    return file


def test_a_page_gets_the_parts_that_it_has_markers_for(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- begin quick attacks -->\nold\n<!-- end quick attacks -->\nbelow\n")
    main(page, [run])
    text = page.read_text()
    assert text.startswith("above\n<!-- begin quick attacks -->\n\n### Attacks: share of the lost forget accuracy")
    assert "| GA + GD | 0.0003 | off | naive (sum) | 0/1 |" in text
    assert "- runs under attack: 6; 6 did not reach the target" in text
    assert "old" not in text
    assert text.endswith("<!-- end quick attacks -->\nbelow\n")


def test_a_page_without_markers_is_refused(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin full attacks -->\n<!-- end full attacks -->\n")
    with pytest.raises(RetainFirstError, match="no place for quick guard"):
        main(page, [run])
