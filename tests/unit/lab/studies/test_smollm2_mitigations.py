"""The mitigations on SmolLM2: what they change in a run, and the tables of made-up results."""

import pytest
import torch

from retainfirst_lab.studies.smollm2_mitigations import FASTER, MITIGATIONS, RATE, MitigatedCell, tables
from studied import result
from tiny import tiny_batch


def cell(mitigation, seed=200):
    return MitigatedCell("smollm2", "npo", "sago", 4.0, RATE, seed, "adamw", "off", mitigation)


def test_merged_adapters_leave_a_plain_model_with_the_same_answers(llama):
    pytest.importorskip("peft")
    names = [name for name, _ in llama.named_parameters()]
    batch = {name: tiny_batch()[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before = llama(**batch).logits
    _, adapters = MITIGATIONS["adapters"]
    adapters.prepare(llama, seed=0)
    trained = [one for one in llama.parameters() if one.requires_grad]
    with torch.no_grad():
        for one in trained:
            one.add_(0.05)
        adapted = llama(**batch).logits
        adapters.finish(llama)
        merged = llama(**batch).logits
    assert 0 < sum(one.numel() for one in trained) < sum(one.numel() for one in llama.parameters()) / 2
    assert not torch.equal(adapted, before)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5)  # float32 sums in another order
    assert [name for name, _ in llama.named_parameters()] == names
    assert all(one.requires_grad for one in llama.parameters())


def test_the_last_steps_are_larger_only_from_half_of_the_way_on():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
    _, change = MITIGATIONS["larger last steps"]
    rates = []
    for left in (0.9, 0.51, 0.5, 0.1):
        change.look(optimizer, left)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [RATE, RATE, FASTER * RATE, FASTER * RATE]


def test_a_mitigation_is_compared_with_the_run_without_it():
    results = {cell("none"): result(), cell("adapters"): result(attacked=0.5), cell("none", 201): result()}
    means, differences = tables(results)
    assert [row[:4] for row in means.rows] == [["none", "2/2", "1.0", "0.200"], ["adapters", "1/1", "1.0", "0.200"]]
    four_bits = means.columns.index("4 bits")
    assert [row[four_bits] for row in means.rows] == ["0.100", "0.300"]
    [row] = differences.rows
    assert (row[0], row[differences.columns.index("4 bits")]) == ("adapters", "+0.200 [+0.200, +0.200]")


def test_a_run_that_missed_the_target_is_counted_and_not_compared():
    results = {cell("none"): result(), cell("adapters"): {**result(), "attacks": {}}}
    means, differences = tables(results)
    assert [row[:3] for row in means.rows] == [["none", "1/1", "1.0"], ["adapters", "0/1", "-"]]
    assert not differences.rows
