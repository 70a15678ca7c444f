"""The part on the guard: its cells, the comparison at equal steps, and the verdict, against tables computed by hand."""

from itertools import product

import pytest

from retainfirst_lab.reproduce import FULL, QUICK
from retainfirst_lab.reproduce.design import MAIN
from retainfirst_lab.reproduce.guard_claim import claim, lead, overall
from retainfirst_lab.reproduce.guard_design import COMMON_RATES, EQUAL_STEPS, GUARDS, OPTIMIZERS, RATES, GuardPart
from retainfirst_lab.reproduce.guard_results import at_steps, at_target, guard_results
from retainfirst_lab.reproduce.guard_tables import guard_tables, terminal_guard_table, verdict_line

SIDES = (("adamw", "off"), ("adamw", "enforce"), ("sgd", "off"), ("sgd", "enforce"))


def entry(
    variant, optimizer, guard, rate, *, seed=200, covered=0.5, held_out=0.5, steps=48.0, reached=True, opposes=()
):
    """A cell's entry with the numbers that the part reads."""
    return {
        "objective": "ga", "variant": variant, "optimizer": optimizer, "guard": guard, "learning_rate": rate, "seed": seed,
        "reached": reached, "forget_accuracy": 0.3, "steps": steps, "forget_paraphrased_accuracy": 0.4,
        "retain_accuracy": {"covered": covered, "held_out": held_out, "unrelated": 1.0},
        "relearning": {"regained": 0.2},
        "path": [{"step": 0}, *({"step_opposes_retain": share} for share in opposes or (0.0,))],
    }  # fmt: skip


def table(sago, pcgrad):
    """Numbers by arm and seed, from each side's retained accuracy by seed."""
    return {
        ("ga", variant, *side): {seed: {"retained": value} for seed, value in enumerate(values)}
        for variant, sides in (("sago", sago), ("pcgrad", pcgrad))
        for side, values in sides.items()
    }


def test_every_rule_has_each_optimiser_and_guard_and_the_common_rate():
    cells = GuardPart(("ga",)).cells("facts", [200])
    arms = {cell.arm for cell in cells}
    assert arms == {("ga", variant.label, *side) for variant, side in product(MAIN, product(OPTIMIZERS, GUARDS))}
    for arm in arms:
        rates = [cell.learning_rate for cell in cells if cell.arm == arm]
        assert COMMON_RATES[arm[2]] in rates
        assert rates[1] / rates[0] == pytest.approx(2)
        assert rates[2] / rates[1] == pytest.approx(2)
    assert len({cell.id for cell in cells}) == len(cells) == 36
    assert set(RATES) == set(SIDES)


def test_the_tiers_have_the_part_on_seeds_that_chose_nothing():
    assert QUICK.guard.objectives == ("ga",)
    assert set(FULL.guard.objectives) == {"ga", "npo"}
    assert not set(FULL.seeds) & set(FULL.development_seeds)


def test_the_cells_of_the_combiners_keep_their_files():
    main, guarded = QUICK.report({})[0], QUICK.guard.cells("facts", [200])[0]
    assert main.id == "facts-ga-sum-g4-lr0.0003-s200"
    assert set(main.as_dict()) == {"testbed", "objective", "variant", "gamma", "learning_rate", "seed"}
    assert guarded.id == "facts-ga-sum-g4-lr7.5e-05-s200-adamw-guard_off"
    assert guarded.as_dict() == {**main.as_dict(), "learning_rate": 7.5e-5, "optimizer": "adamw", "guard": "off"}


def test_numbers_at_the_target():
    found = at_target(entry("sago", "sgd", "off", 0.08, covered=0.9, held_out=0.7, opposes=(0.5, 0.0)))
    assert found == pytest.approx(
        {"covered": 0.9, "held_out": 0.7, "retained": 0.8, "unrelated": 1.0, "forget_paraphrased": 0.4, "regained": 0.2,
         "steps": 48.0, "opposing": 0.25}
    )  # fmt: skip


def test_equal_steps_are_interpolated_in_the_logarithm():
    rates = [{"steps": 96.0, "covered": 1.0}, {"steps": 24.0, "covered": 0.8}, {"steps": 12.0, "covered": 0.1}]
    assert at_steps(rates, 48.0) == pytest.approx({"steps": 48.0, "covered": 0.9})
    assert at_steps(rates, 96.0) == pytest.approx({"steps": 96.0, "covered": 1.0})
    assert at_steps(rates, 97.0) is None
    assert at_steps(rates, 11.0) is None
    assert at_steps(rates[:1], 48.0) is None
    assert at_steps([], 48.0) is None


def test_a_lead_is_paired_by_seed():
    arms = table({SIDES[0]: [0.9, 0.8, 0.7]}, {SIDES[0]: [0.8, 0.6]})
    assert lead(arms, "ga", SIDES[0]) == pytest.approx({0: 0.1, 1: 0.2})
    assert lead(arms, "ga", SIDES[1]) == {}


def verdicts(base, sgd, enforced):
    zeros = [0.5] * len(base)
    sides = dict(zip((SIDES[0], SIDES[2], SIDES[1]), (base, sgd, enforced), strict=True))
    sago = {side: [0.5 + value for value in values] for side, values in sides.items()}
    rows = claim(table(sago, dict.fromkeys(sides, zeros)))
    assert [(row["optimizer"], row["guard"]) for row in rows] == [("sgd", "off"), ("adamw", "enforce")]
    return [row["verdict"] for row in rows], rows


def test_the_claim_by_hand():
    base = [0.10, 0.12, 0.08]
    found, rows = verdicts(base, sgd=[0.09, 0.10, 0.08], enforced=[0.02, 0.03, 0.01])
    assert found == ["fails", "holds"]
    assert rows[0]["lead"]["mean"] == pytest.approx(0.10)
    assert rows[0]["lead_on_route"]["mean"] == pytest.approx(0.09)
    assert rows[0]["shrinks"]["mean"] == pytest.approx(0.01)
    assert rows[0]["margin"]["mean"] == pytest.approx(0.05 - 0.09)
    assert rows[1]["margin"]["mean"] == pytest.approx(0.05 - 0.02)
    assert verdicts(base, sgd=[0.04, 0.07, 0.03], enforced=[0.0, 0.0, 0.0])[0] == ["undecided", "holds"]
    assert verdicts([0.1, -0.1, 0.0], base, base)[0] == ["no lead to explain"] * 2
    assert verdicts([0.1], [0.09], [0.01])[0] == ["fails", "holds"], "one seed: by the sign"
    assert claim(table({SIDES[0]: [0.9]}, {SIDES[0]: [0.8]})) == [], "no route was run"


def test_the_whole_claim():
    assert overall(["holds", "holds", "no lead to explain"]) == "holds"
    assert overall(["holds", "fails", "undecided"]) == "fails"
    assert overall(["holds", "undecided"]) == "undecided"
    assert overall(["no lead to explain"]) == overall([]) == "undecided"


@pytest.fixture
def results():
    """Two rates of two rules on two seeds; the smaller rate needs 96 steps and retains 0.1 more, the larger needs 24."""
    entries = []
    leads = {("adamw", "off"): 0.2, ("adamw", "enforce"): 0.0, ("sgd", "off"): 0.02, ("sgd", "enforce"): 0.0}
    for seed, (side, ahead), variant in product((200, 201, 7), leads.items(), ("pcgrad", "sago")):
        retained = 0.6 + (ahead if variant == "sago" else 0.0) + (0.01 if seed == 201 else 0.0)
        common = COMMON_RATES[side[0]]
        for rate, steps, more in ((common, 24.0, 0.0), (common / 2, 96.0, 0.1)):
            numbers = {"covered": retained + more, "held_out": retained + more, "steps": steps}
            entries.append(entry(variant, *side, rate, seed=seed, opposes=(1.0, 0.5), **numbers))
    found = guard_results(entries, (7,))
    return {"guard": found, "development_seeds": [7], "identity": {"sizes": {"target": 0.3}}}


def test_the_tables_by_hand(results):
    claims, arms, leads, changes, rates = guard_tables(results)
    ways = ["common rate"] * 2 + ["chosen rate"] * 2 + [f"{EQUAL_STEPS:g} steps"] * 2
    assert [row[1] for row in claims.rows] == ways
    assert claims.rows[4][2:] == [
        "SGD", "+0.200 [+0.200, +0.200]", "+0.020 [+0.020, +0.020]", "+0.180 [+0.180, +0.180]",
        "+0.080 [+0.080, +0.080]", "holds",
    ]  # fmt: skip
    assert "with GA + GD the claim holds" in claims.note
    # The smaller rate was chosen on seed 7; at 48 steps, halfway in the logarithm, half of its gain is left.
    found = {(row[1], *row[2:5]): row[5:] for row in arms.rows}
    spread = "± 0.007"
    assert found["common rate", "AdamW", "SAGO", "off"] == [
        "0.0003", "2/2", "24 ± 0", f"0.805 {spread}", f"0.805 {spread}", "0.400 ± 0.000", "0.200 ± 0.000", "75 %",
    ]  # fmt: skip
    assert found["chosen rate", "AdamW", "SAGO", "off"][:4] == ["0.00015", "2/2", "96 ± 0", f"0.905 {spread}"]
    assert found["48 steps", "AdamW", "SAGO", "off"][:4] == ["", "2/2", "48 ± 0", f"0.855 {spread}"]
    assert [row[-1] for row in rates.rows] == ["0.00015"] * 4 + ["0.04"] * 4
    assert ["GA + GD", "48 steps", "AdamW", "on", "(+0.000 [+0.000, +0.000])"] in [row[:5] for row in leads.rows]
    assert ["GA + GD", "48 steps", "AdamW", "SAGO", "-0.200 [-0.200, -0.200]"] in [row[:5] for row in changes.rows]
    assert len(terminal_guard_table(results).rows) == 8


def test_a_run_without_the_part_has_no_tables_and_no_verdict(results):
    assert guard_tables({"tier": "smollm2"}) == []
    results["guard"] = guard_results([], ())
    assert guard_tables(results) == []
    assert verdict_line(results) == "Verdict: the claim could not be judged."


def test_cells_that_never_forgot_are_counted_and_left_out():
    rate = COMMON_RATES["sgd"]
    entries = [entry("sago", "sgd", "off", rate), entry("sago", "sgd", "off", rate, seed=201, reached=False)]
    [row] = guard_results(entries, ())["compared"]["common"]["arms"]
    assert (row["runs"], row["reached"], row["numbers"]["steps"]["n"]) == (2, 1, 1)
