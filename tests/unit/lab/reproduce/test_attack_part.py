"""The part on attacks: its cells, a run on tiny facts, and the verdicts and tables against numbers computed by hand."""

from dataclasses import replace

import pytest

from retainfirst_lab.reproduce import FULL, QUICK
from retainfirst_lab.reproduce.attack_claims import verdicts
from retainfirst_lab.reproduce.attack_design import ATTACKS, QUANTISERS, AttackPart
from retainfirst_lab.reproduce.attack_results import attack_results
from retainfirst_lab.reproduce.attack_runs import attacked, recovered
from retainfirst_lab.reproduce.attack_tables import attack_tables, attack_verdicts, terminal_attack_table
from retainfirst_lab.reproduce.design import Sizes
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed, facts_config
from retainfirst_lab.reproduce.figures import figures

SIZES = Sizes(relearn_rows=2, relearn_steps=2, batch_size=8)
SETTINGS = ("ga", 3e-4, "off")


def test_every_rule_with_and_without_the_guard_and_at_the_small_rate():
    cells = AttackPart(("ga", "npo"), at_small_rate=("ga",)).cells("facts", [200, 201])
    assert len({cell.id for cell in cells}) == len(cells) == 2 * (2 * 2 * 3 + 3)
    small = [cell for cell in cells if cell.learning_rate == 5e-5]
    assert {(cell.objective, cell.guard, cell.max_steps) for cell in small} == {("ga", "off", 600)}
    assert {cell.max_steps for cell in cells if cell not in small} == {200}
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_the_tiers_have_the_part():
    assert QUICK.attacks == AttackPart(("ga",))
    assert FULL.attacks == AttackPart(("ga", "npo"), at_small_rate=("ga",))


def test_a_cell_has_a_file_of_its_own():
    """The part on the guard has the same run without attacks; a folder holds both."""
    attacks, guard = (part.cells("facts", [200]) for part in (QUICK.attacks, QUICK.guard))
    assert attacks[0].id == "facts-ga-sum-g4-lr0.0003-s200-adamw-guard_off-n200-attacked"
    assert not {cell.id for cell in attacks} & {cell.id for cell in guard}


def test_a_run_on_tiny_facts():
    (cell, *_) = AttackPart(("ga",), max_steps=4).cells("facts", [3])
    row = attacked(
        replace(cell, learning_rate=3e-3), FactsTestbed(facts_config(3, people=2, hidden_size=64), SIZES), SIZES
    )
    assert row["before"]["forget"] == 1.0
    assert set(row["quantised"]) == set(QUANTISERS)
    assert row["quantised"]["8 bits"]["forget"] == pytest.approx(row["after"]["forget"], abs=0.2)
    assert 0 < row["moved_codes"] < 1
    assert 0 < row["steps"] <= 4
    assert len(row["relearning"]["accuracy"]) == 3


def found(quantised=0.3, after=0.3, regained=0.2, eight=None):
    """The results of a cell whose forget accuracy was 1 before."""
    forget = {name: quantised if eight is None or name.startswith("4") else eight for name in QUANTISERS}
    return {
        "steps": 10, "before": {"forget": 1.0}, "after": {"forget": after, "covered": 0.9}, "moved_codes": 0.1,
        "quantised": {name: {"forget": value} for name, value in forget.items()}, "relearning": {"regained": regained},
    }  # fmt: skip


def test_recovered_shares():
    assert recovered(found(0.65), "4 bits") == pytest.approx(0.5)
    assert recovered(found(regained=0.2), "relearning") == 0.2
    assert recovered(found(after=1.0, regained=None), "4 bits") is None, "nothing was lost"
    assert recovered(found(after=1.0, regained=None), "relearning") is None


def shares(**variants):
    """The shares of each rule, by attack and seed, from one list of values for each attack that is given."""
    return {
        (*SETTINGS, variant): {
            attack: dict(enumerate(values.get(attack, [0.0] * max(map(len, values.values()))))) for attack in ATTACKS
        }
        for variant, values in variants.items()
    }


def by_claim(rows):
    return {row["claim"]: row["verdict"] for row in rows}


def test_the_claims_by_hand():
    plain = {"4 bits": [0.0, 0.1, 0.0], "relearning": [0.2, 0.3, 0.2]}
    more = {"4 bits": [0.2, 0.2, 0.1], "relearning": [0.1, 0.1, 0.1]}
    rows = verdicts(shares(sum=plain, sago=more))
    assert by_claim(rows) == {"Q4": "holds", "Q8": "holds", "R": "fails"}
    assert [row["mean"] for row in rows] == pytest.approx([0.4 / 3, 0.0, -0.4 / 3])
    assert by_claim(verdicts(shares(sum=plain, sago={**more, "4 bits": [0.2, 0.0, 0.0]})))["Q4"] == "not seen"
    assert by_claim(verdicts(shares(sum=plain))) == {"Q8": "holds"}, "Q4 and R need both rules"
    assert verdicts({}) == []


@pytest.mark.parametrize(
    ("eight", "verdict", "mean"),
    [([0.0, 0.06, 0.0], "fails", 0.02), ([-0.04, 0.04], "holds", 0.0), ([-0.06], "fails", -0.06)],
)
def test_nothing_is_back_at_eight_bits_if_every_interval_is_near_zero(eight, verdict, mean):
    """Also of PCGrad, of either quantiser, on either side of 0; the interval counts, not the mean."""
    rows = verdicts(shares(sum={"4 bits": [0.0] * len(eight)}, pcgrad={"8 bits, groups": eight}))
    assert by_claim(rows) == {"Q8": verdict}
    assert rows[0]["mean"] == pytest.approx(mean)


@pytest.fixture
def results():
    """Two seeds of each rule; PCGrad never forgets enough on one of them."""
    cells = AttackPart(("ga",)).cells("facts", [200, 201])
    raw = {
        cell: found({"sum": 0.3, "pcgrad": 0.3, "sago": 0.65}[cell.variant], eight=0.3)
        for cell in cells
        if cell.guard == "off"
    }
    late = next(cell for cell in raw if (cell.variant, cell.seed) == ("pcgrad", 201))
    raw[late] = found(0.8, after=0.8)
    return {"attacks": attack_results(raw, 0.3), "cells": [], "identity": {"sizes": {"target": 0.3}}}


def test_the_tables_by_hand(results):
    claims, shown, differences = attack_tables(results)
    assert [(row[0], *row[4:]) for row in claims.rows] == [
        ("Q4", "2", "+0.500 [+0.500, +0.500]", "holds"),
        ("Q8", "2", "+0.000 [+0.000, +0.000]", "holds"),
        ("R", "2", "+0.000 [+0.000, +0.000]", "not seen"),
    ]
    assert claims.note.endswith(
        "Q4 holds in 1 of 1 comparisons; Q8 holds in 1 of 1 comparisons; R holds in 0 of 1 comparisons."
    )
    found = {row[3]: row[4:] for row in shown.rows}
    zero, half = "0.000 ± 0.000", "0.500 ± 0.000"
    assert found["SAGO"] == [
        "2/2", "10 ± 0", "0.300 ± 0.000", "0.900 ± 0.000", zero, zero, half, half, "0.200 ± 0.000", "0.100 ± 0.000",
    ]  # fmt: skip
    assert found["PCGrad"][:2] == ["1/2", "10"]
    assert [row[:4] for row in differences.rows] == [
        ["GA + GD", "0.0003", "off", "PCGrad"], ["GA + GD", "0.0003", "off", "SAGO"],
    ]  # fmt: skip
    assert differences.rows[1][6] == "+0.500 [+0.500, +0.500]"
    assert differences.rows[1][8] == "(+0.000 [+0.000, +0.000])"
    assert [row[-1] for row in terminal_attack_table(results).rows] == [
        "0.200 ± 0.000",
        "0.200",
        "0.200 ± 0.000",
    ]


def test_one_seed_is_marked(results):
    cells = AttackPart(("ga",)).cells("facts", [200])
    results["attacks"] = attack_results({cell: found(0.3) for cell in cells if cell.guard == "off"}, 0.3)
    assert [row[-1] for row in attack_tables(results)[0].rows] == [
        "not seen (one seed)",
        "holds (one seed)",
        "not seen (one seed)",
    ]
    assert attack_verdicts(results).endswith("R holds in 0 of 1 comparisons (one seed).")


def test_the_figure_has_a_point_for_every_rule_and_attack(results):
    pytest.importorskip("matplotlib")
    [(caption, drawn)] = figures(results).items()
    assert caption.startswith("Share of the lost forget accuracy that each attack brings back")
    for label in ("naive (sum), guard off", "PCGrad, guard off", "SAGO, guard off", "relearning"):
        assert f">{label}<" in drawn
    results["attacks"] = attack_results({}, 0.3)
    assert figures(results) == {}


def test_a_run_without_the_part_has_no_tables_and_no_verdict(results):
    assert attack_tables({"tier": "smollm2"}) == []
    results["attacks"] = attack_results({}, 0.3)
    assert attack_tables(results) == []
    assert attack_verdicts(results) == "Verdict: no claim could be judged."
