"""The study of mitigations, on tiny facts."""

from dataclasses import replace

import pytest
import torch

from retainfirst_lab.reproduce import FULL, workers
from retainfirst_lab.reproduce.attack_design import QUANTISERS
from retainfirst_lab.reproduce.design import Sizes
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed, facts_config
from retainfirst_lab.studies import mitigations
from retainfirst_lab.studies.mitigations import MITIGATIONS, MitigatedCell, cells, salient, tables

SIZES = Sizes(relearn_rows=2, relearn_steps=2, batch_size=8)


def cell(rule="sago", seed=3, mitigation="none"):
    return MitigatedCell("facts", "ga", rule, 4.0, 3e-3, seed, "adamw", "off", 4, mitigation)


@pytest.fixture(scope="module")
def testbed():
    return FactsTestbed(facts_config(3, people=2, hidden_size=64), SIZES)


@pytest.mark.parametrize("name", MITIGATIONS)
def test_a_mitigation_changes_what_it_says(testbed, name):
    model = testbed.model()
    before = {key: one.detach().clone() for key, one in model.named_parameters()}
    chosen = salient(model, testbed)
    assert 0 < cell(mitigation=name).unlearn(model, testbed, SIZES) <= 4
    after = dict(model.named_parameters())
    assert after.keys() == before.keys(), "adapters are merged"
    assert all(one.requires_grad for one in after.values()), "relearning trains all parameters"
    changed = {key for key, one in after.items() if not torch.equal(one, before[key])}
    if name == "salient tensors":
        assert changed == chosen
        assert len(chosen) == len(before) // 2
    elif name == "adapters":
        assert changed
        assert all("norm" not in key and "embed" not in key for key in changed)
        for key in changed:
            assert torch.linalg.matrix_rank(after[key] - before[key], rtol=1e-4) <= 8
    else:
        assert changed == set(before)


def made_row(rule, seed, mitigation, back):
    return cell(rule, seed, mitigation), {
        "steps": 10, "before": {"forget": 1.0, "covered": 1.0},
        "after": {"forget": 0.2 if back is not None else 0.9, "covered": 0.9},
        "quantised": {name: {"forget": 0.2} for name in QUANTISERS}, "moved_codes": 0.1, "relearning": {"regained": back},
    }  # fmt: skip


def test_differences_are_paired_by_seed():
    """A seed that one side lacks counts on neither: unpaired means would differ by 0.1 - 0.4 instead of -0.1."""
    rows = [
        made_row("sum", 0, "none", 0.2), made_row("sum", 1, "none", 0.3), made_row("sum", 2, "none", 0.7),
        made_row("sum", 0, "adapters", 0.1), made_row("sum", 1, "adapters", 0.2), made_row("sum", 2, "adapters", None),
        made_row("sago", 0, "adapters", 0.5),
    ]  # fmt: skip
    shares, differences = tables(dict(rows), 0.3)
    assert shares.note == "1 of 7 runs missed the target and are left out."
    assert [row[:3] for row in shares.rows] == [
        ["sum", "none", "3"],
        ["sum", "adapters", "2"],
        ["sago", "adapters", "1"],
    ]
    assert [row[:2] for row in differences.rows] == [["sum", "adapters"]], (
        "of SAGO there is no run without a mitigation"
    )
    assert differences.rows[0][-1] == "-0.100 (-0.100 to -0.100)"


def test_every_rule_with_every_mitigation():
    made = cells([200, 201], 1e-4, 400)
    assert len({cell.id for cell in made}) == len(made) == 2 * 2 * 4
    assert {(cell.learning_rate, cell.max_steps) for cell in made} == {(1e-4, 400)}


@pytest.mark.slow
def test_the_study_goes_on_after_an_interruption(tmp_path, monkeypatch, capsys):
    tier = replace(FULL, sizes=SIZES, people=2, hidden_size=64)
    monkeypatch.setattr(mitigations, "FULL", tier)
    given = ["--seeds", "3", "--rate", "3e-3", "--max-steps", "4", "--jobs", "1", "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["mitigations.py", *given])
    mitigations.main()
    before = capsys.readouterr().out
    assert "### Share of the lost forget accuracy that comes back" in before
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 8
    monkeypatch.setattr(workers, "attacked", lambda *_: pytest.fail("ran a finished cell again"))
    mitigations.main()
    assert capsys.readouterr().out == before
