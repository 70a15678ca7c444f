"""The generators of the site's pages and pictures."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

import retainfirst as rf
from retainfirst_lab.report import command_page, command_picture, rule_figures, rule_pages

HOSTS = {"www.w3.org", "www.textualize.io"}  # the name of the format, and a comment

THEORY = """
<!-- begin optimisers -->

| optimiser | `sum` | pcgrad, tensor | pcgrad, global |
| --- | --- | --- | --- |
| Adam | refuted; 1 % | refuted; 2 % | refuted; 3 % |

<!-- end optimisers -->
"""


def test_a_rule_shows_its_columns_of_the_table_of_optimisers():
    assert "| Adam | refuted; 2 % | refuted; 3 % |" in rule_pages.promises("pcgrad", THEORY)
    assert "| Adam | refuted; 1 % |" in rule_pages.promises("sum", THEORY)
    assert "did not include this rule" in rule_pages.promises("agem", THEORY)


@pytest.mark.parametrize(
    ("rule", "statement", "verdict"),
    [
        ("sago", "T1", "kept"),
        ("pcgrad", "T1", "not promised"),
        ("pcgrad", "T2", "kept; rounding can break it (X2)"),
        ("gru", "T2", "kept in exact arithmetic; rounding can break it"),
        ("pcgrad", "X3", "**broken**, by a counterexample"),
    ],
)
def test_the_verdicts_are_those_of_the_theorem_book(rule, statement, verdict):
    [line] = [line for line in rule_pages.promises(rule, THEORY).splitlines() if line.startswith(f"| [{statement}]")]
    assert line.endswith(f"| {verdict} |")


def test_anchors_are_those_of_headings():
    assert rule_pages.anchor("X2: PCGrad's guarantee survives rounding") == "x2-pcgrads-guarantee-survives-rounding"


def test_the_page_of_the_command_has_each_subcommand_and_its_options():
    text = command_page.as_markdown()
    for name in ("unlearn", "evaluate", "run", "reproduce", "verify", "bench step"):
        assert f"## retainfirst {name}\n" in text
    assert "| `--lora-rank` | " in text
    assert "retainfirst run [OPTIONS] SCRIPT" in text


def test_a_picture_of_a_command_shows_it_and_loads_nothing():
    picture = command_picture.draw(["retainfirst", "unlearn"], "52 steps < 60")
    shown = "".join(ElementTree.fromstring(picture).itertext()).replace("\xa0", " ")
    assert "$ retainfirst unlearn" in shown
    assert "52 steps < 60" in shown
    assert set(re.findall(r"https?://([\w.-]+)", picture)) <= HOSTS
    assert "@font-face" not in picture


def test_the_command_of_a_picture_is_run():
    assert command_picture.printed([sys.executable, "-c", "print(6 * 7)"]) == "42\n"
    with pytest.raises(rf.RetainFirstError, match="ended with 3: no"):
        command_picture.printed([sys.executable, "-c", "import sys; print('no', file=sys.stderr); sys.exit(3)"])


def test_pictures_of_rules_depend_on_the_numbers_alone(tmp_path):
    for folder in ("first", "second"):
        rule_figures.draw(tmp_path / folder, {"sago": rf.make_combiner("sago")})
    names = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert names == ["sago.svg", "three.svg"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
        assert set(re.findall(r"https?://([\w.-]+)", (tmp_path / "first" / name).read_text())) <= HOSTS | {
            "purl.org",
            "creativecommons.org",
        }
