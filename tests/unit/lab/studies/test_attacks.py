"""The study of quantisation and relearning, on tiny facts."""

import pytest

from retainfirst_lab.reproduce.design import Sizes
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed, facts_config
from retainfirst_lab.studies.attacks import QUANTISERS, attacked, cells, recovered, tables

SIZES = Sizes(max_steps=4, relearn_rows=2, relearn_steps=2, batch_size=8)


def test_every_rule_with_and_without_the_guard():
    made = cells(["ga", "npo"], [1e-4], [0, 1])
    assert len({cell.id for cell in made}) == len(made) == 2 * 2 * 3 * 2
    assert {cell.guard for cell in cells(["ga"], [1e-4], [0], ["off"])} == {"off"}


def test_a_cell():
    (cell, *_) = cells(["ga"], [3e-3], [3], ["off"])
    testbed = FactsTestbed(facts_config(3, people=2, hidden_size=64), SIZES)
    row = attacked(cell, testbed, SIZES)
    assert row["before"]["forget"] == 1.0
    assert set(row["quantised"]) == set(QUANTISERS)
    assert row["quantised"]["8 bits"]["forget"] == pytest.approx(row["after"]["forget"], abs=0.2)
    assert 0 < row["moved_codes"] < 1
    assert 0 < row["steps"] <= 4


def made_row(variant, seed, quantised, after=0.3):
    (cell, *_) = (one for one in cells(["ga"], [1e-4], [seed], ["off"]) if one.variant == variant)
    return {
        "cell": cell.as_dict(), "steps": 10, "before": {"forget": 1.0, "covered": 1.0},
        "after": {"forget": after, "covered": 0.9}, "quantised": {name: {"forget": quantised} for name in QUANTISERS},
        "moved_codes": 0.1, "relearning": {"regained": 0.2},
    }  # fmt: skip


def test_shares_and_differences():
    rows = [made_row("sum", 0, 0.3), made_row("sum", 1, 0.3), made_row("sago", 0, 0.65), made_row("sago", 1, 0.65)]
    assert recovered(rows[2], "4 bits") == pytest.approx(0.5)
    assert recovered(rows[2], "relearning") == 0.2
    shares, differences = tables([*rows, made_row("pcgrad", 0, 0.3, after=0.8)], 0.3)
    assert shares.note.startswith("1 of 5 runs missed the target")
    assert [row[3] for row in shares.rows] == ["sum", "sago"]
    (row,) = differences.rows
    assert row[3] == "sago"
    assert row[6].startswith("+0.500 (+0.500")
