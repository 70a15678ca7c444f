"""The study of SimNPO's gap: its tables, and one short run."""

from __future__ import annotations

import pytest

from retainfirst_lab.reproduce.design import MAIN
from retainfirst_lab.studies import simnpo_gap


def report(seeds=(1, 2)):
    kept = {"sum": 0.5, "pcgrad": 0.6, "sago": 0.9}
    runs = []
    for setting in simnpo_gap.SETTINGS:
        for rule in MAIN:
            for seed in seeds:
                point = {"forget": 0.3, "covered": kept[rule.label], "held_out": kept[rule.label] - seed / 100}
                forgotten = None if (rule.label, seed) == ("sum", 2) else point
                runs.append(
                    {
                        "setting": setting.label,
                        "combiner": rule.label,
                        "seed": seed,
                        "forgotten": forgotten,
                        "end": point,
                    }
                )
    return {"steps": 150, "seeds": list(seeds), "runs": runs}


def test_the_table_has_each_setting_and_rule():
    rows = simnpo_gap.table(report()).rows
    assert len(rows) == len(simnpo_gap.SETTINGS) * len(MAIN)
    assert rows[0][1:4] == ["`sum`", "1/2", "0.500"]
    assert rows[2][1:5] == ["`sago`", "2/2", "0.900 ± 0.000", "0.885 ± 0.007"]


def test_leads_are_paired_by_seed_and_leave_out_runs_that_did_not_forget():
    rows = simnpo_gap.leads(report()).rows
    assert [row[1:] for row in rows] == [["+0.400", "+0.400 ± 0.000"]] * len(simnpo_gap.SETTINGS)


@pytest.mark.slow
def test_a_short_run(monkeypatch):
    monkeypatch.setattr(simnpo_gap, "SETTINGS", simnpo_gap.SETTINGS[:2])
    found = simnpo_gap.measure(5, [200])
    assert len(found["runs"]) == 6
    covered, other = (
        one["end"] for one in (found["runs"][0], found["runs"][3])
    )  # plain addition, on either kind of batches
    assert covered["step"] == other["step"] == 5
    assert covered != other
