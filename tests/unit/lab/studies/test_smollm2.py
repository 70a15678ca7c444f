import json

import pytest

from retainfirst_lab.reproduce.guard_design import GuardCell
from retainfirst_lab.studies import smollm2
from retainfirst_lab.studies.smollm2_runs import Authors, AuthorSizes, run
from studied import result

SIZES = AuthorSizes(authors=6, rows=2, forget=2, covered=2, epochs=30, batch_size=2, max_steps=60, equal_steps=2)


def test_what_is_retained_is_read_at_the_target():
    assert smollm2.at_target(result(), "covered") == pytest.approx([0.95, 0.8])


def test_rows_are_averaged_by_author():
    assert smollm2.by_author(result(), "covered", [1.0, 0.0, 0.5, 0.5]) == {2: 0.5, 3: 0.5}


def test_the_interval_resamples_authors_within_each_seed():
    # The seeds differ, the authors of a seed do not: no resampling of authors changes the mean.
    found = smollm2.contrast({0: {1: 0.1, 2: 0.1}, 1: {1: 0.3, 2: 0.3}})
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    assert found.authors == 4


def test_more_spread_needs_more_authors():
    narrow, wide = (smollm2.contrast({0: {1: -x, 2: x, 3: 0.0}}) for x in (0.05, 0.1))
    # (2.8 * 0.05 / 0.05)^2 = 7.84, and four times as many
    assert (narrow.needed, wide.needed) == (8, 32)


def test_rules_are_compared_where_both_reached_the_target():
    cells = {rule: GuardCell("smollm2", "npo", rule, 4.0, 1e-4, 0, "adamw", "off") for rule in ("sum", "sago")}
    results = {cells["sum"]: result(), cells["sago"]: result(covered=(1.0, 0.9))}
    arms = ("npo", "sago", "off"), ("npo", "sum", "off")
    assert smollm2.compared(results, *arms, smollm2.MEASURES["covered"]).mean == pytest.approx(0.075)
    missed = {**results, cells["sago"]: {**result(), "attacks": {}}}
    assert smollm2.compared(missed, *arms, smollm2.MEASURES["covered"]) is None


def test_the_tables_say_what_comes_back():
    cells = {rule: GuardCell("smollm2", "npo", rule, 4.0, 1e-4, 0, "adamw", "off") for rule in ("sum", "sago")}
    retained, differences, back = smollm2.tables({cells["sum"]: result(), cells["sago"]: result(attacked=0.5)})
    assert retained.rows[0][:6] == ["npo", "`sum`", "off", "1/1", "1.0", "100%"]
    assert differences.rows[0][2] == "sago - sum"
    assert [row[3] for row in back.rows] == ["+0.100", "+0.300", "+0.200 [+0.200, +0.200]"]
    assert back.rows[0][7] == "+0.150", "relearning"


def test_the_guard_is_compared_with_its_absence():
    cells = {guard: GuardCell("smollm2", "npo", "sum", 4.0, 1e-4, 0, "adamw", guard) for guard in ("off", "enforce")}
    results = {cells["off"]: result(), cells["enforce"]: result(covered=(1.0, 0.9))}
    [row] = smollm2.tables(results)[1].rows
    assert row[:4] == ["npo", "enforce - off", "`sum`", "+0.075 [+0.050, +0.100]"]


def test_how_far_the_guard_shrinks_the_lead():
    covered = {("sago", "off"): (1.0, 1.0), ("pcgrad", "off"): (0.6, 0.6), ("sago", "enforce"): (1.0, 1.0)}
    results = {
        GuardCell("smollm2", "npo", rule, 4.0, 1e-4, 0, "adamw", guard): result(
            covered=covered.get((rule, guard), (0.9, 0.9))
        )
        for rule in ("sago", "pcgrad")
        for guard in ("off", "enforce")
    }
    states = [found["states"] for found in results.values()]
    for one in states:  # nothing is interpolated: both states have the same rows
        one["above"]["covered"] = one["below"]["covered"] = one["equal_steps"]["covered"]
    # 1.0 - 0.6 without the guard, 1.0 - 0.9 with it
    assert "shrinks by +0.300 [+0.300, +0.300]" in smollm2.tables(results)[1].note
    results.popitem()
    assert "shrinks" not in smollm2.tables(results)[1].note


@pytest.mark.slow
def test_a_run_on_a_small_model(tiny_model_dir, tmp_path):
    for part, name in enumerate(("forget10_perturbed", "retain_perturbed")):
        rows = [
            {"question": f"Who is {author}?", "answer": f"the {number} of {author}", "perturbed_answer": ["no one"]}
            for author in (f"A{part}", f"B{part}", f"C{part}")
            for number in range(20)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    beds = [Authors(tmp_path / "study", str(tiny_model_dir), tmp_path, SIZES) for _ in range(2)]
    assert beds[0].untaught == beds[1].untaught
    cell = GuardCell("smollm2", "ga", "sago", 4.0, 3e-3, 0, "adamw", "off")
    found = run(cell, beds[0])
    assert sorted(author for drawn in found["authors"].values() for author in drawn) == list(range(6))
    assert found["path"][-1]["forget"] <= found["target"] < found["path"][0]["forget"]
    assert [len(found["states"]["below"][name]) for name in ("forget", "covered", "held_out")] == [4, 4, 4]
    assert set(found["attacks"]) == {*smollm2.QUANTISERS, "relearning"}
    assert found == run(cell, beds[1]), "the model and a run are repeatable"
