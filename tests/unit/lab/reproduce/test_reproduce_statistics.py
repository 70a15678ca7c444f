"""Means, paired differences, and the choice of settings."""

import pytest

from retainfirst_lab.reproduce.results import choose, compare, summarise
from retainfirst_lab.reproduce.side_tables import closer_table
from retainfirst_lab.reproduce.statistics import mean_and_spread, paired_difference


def test_mean_and_spread():
    assert mean_and_spread([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))
    assert mean_and_spread([1.0]) == (1.0, None)


def test_a_difference_is_paired_by_seed():
    left, right = {1: 0.9, 2: 0.7, 3: 0.5, 9: 0.0}, {3: 0.4, 2: 0.6, 1: 0.8}
    found = paired_difference(left, right)
    assert found.n == 3
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.verdict == "higher"
    assert paired_difference(right, left).verdict == "lower"


def test_no_difference_is_seen_where_the_interval_holds_zero():
    left = {1: 0.2, 2: -0.1, 3: 0.1, 4: -0.15, 5: 0.0}
    found = paired_difference(left, dict.fromkeys(left, 0.0))
    assert found.low < 0 < found.high
    assert found.verdict == "no difference seen"


def test_the_interval_is_that_of_the_mean():
    left = dict(enumerate([0.0, 1.0] * 50))
    found = paired_difference(left, dict.fromkeys(left, 0.0))
    # The standard error of this mean is 0.05: the 95 % interval is the mean and twice that on either side.
    assert (found.low, found.high) == pytest.approx((0.4, 0.6), abs=0.02)
    assert found == paired_difference(left, dict.fromkeys(left, 0.0)), "the draws are a function of the data alone"


def test_one_seed_has_a_sign_and_no_interval():
    found = paired_difference({1: 0.5}, {1: 0.4, 2: 0.3})
    assert (found.low, found.high, found.n, found.verdict) == (None, None, 1, "higher")
    assert paired_difference({1: 0.5}, {1: 0.5}).verdict == "no difference seen"
    assert paired_difference({1: 0.5}, {2: 0.5}) is None


def entry(variant="sago", gamma=1.0, seed=0, covered=0.9, held_out=0.9, steps=10, reached=True, forget=0.3):
    return {
        "testbed": "facts", "objective": "ga", "variant": variant, "gamma": gamma, "learning_rate": 1e-3, "seed": seed,
        "reached": reached, "forget_accuracy": forget, "steps": steps, "seconds": 1.0, "recovery": covered,
        "retain_accuracy": {"covered": covered, "held_out": held_out, "unrelated": None},
        "forget_paraphrased_accuracy": None, "frontier_area": {"covered": covered},
        "relearning": {"steps": None, "regained": 0.2},
        "cosines": {"same_state": None, "own_path": dict.fromkeys(
            ("cos_forget_retain", "cos_update_retain", "cos_update_forget"))},
    }  # fmt: skip


def chosen(*entries):
    [(gamma, _)] = choose(entries).values()
    return gamma


def test_settings_are_chosen_by_what_is_retained_over_all_development_seeds():
    good = [entry(gamma=1.0, seed=0, covered=0.9), entry(gamma=1.0, seed=1, covered=0.9)]
    uneven = [entry(gamma=2.0, seed=0, covered=1.0), entry(gamma=2.0, seed=1, covered=0.7)]
    assert chosen(*good, *uneven) == 1.0
    # Held-out facts count as much as covered ones.
    assert chosen(entry(gamma=1.0, covered=1.0, held_out=0.5), entry(gamma=2.0, covered=0.9, held_out=0.8)) == 2.0
    assert chosen(entry(gamma=1.0, steps=20), entry(gamma=2.0, steps=10)) == 2.0


def test_settings_that_do_not_forget_are_not_chosen():
    lazy = [entry(gamma=1.0, seed=0, covered=1.0), entry(gamma=1.0, seed=1, covered=1.0, reached=False, forget=0.9)]
    assert chosen(*lazy, entry(gamma=2.0, seed=0, covered=0.5), entry(gamma=2.0, seed=1, covered=0.5)) == 2.0
    none = entry(gamma=1.0, reached=False, forget=0.8), entry(gamma=2.0, reached=False, forget=0.5)
    assert chosen(*none) == 2.0, "of settings that all fail, the one that forgets most"


def test_cells_that_never_forgot_are_left_out_and_counted():
    cells = [entry(seed=0, covered=0.5), entry(seed=1, covered=1.0, reached=False, forget=0.8)]
    [row] = summarise(cells)
    assert (row["runs"], row["reached"]) == (2, 1)
    assert row["numbers"]["covered"] == {"mean": 0.5, "sd": None, "n": 1}
    assert "unrelated" not in row["numbers"]
    cells += [entry("sum", seed=0, covered=0.4), entry("sum", seed=1, covered=0.1)]
    [difference] = [row for row in compare(cells) if row["measure"] == "covered"]
    assert (difference["variant"], difference["than"], difference["n"]) == ("sago", "sum", 1)
    assert difference["mean"] == pytest.approx(0.1)


def test_states_without_a_conflict_are_not_counted():
    def cell(gamma, states, bound):
        names = ("sum", "pcgrad_global", "sago", "sago_keep_retain")
        return {
            "role": "report", "testbed": "facts", "objective": "ga", "variant": "sum", "gamma": gamma, "learning_rate": 0.1,
            "agreement_bound": bound, "states": [dict(zip(names, state, strict=True)) for state in states],
        }  # fmt: skip

    closer, further, no_conflict = (0.1, 0.2, 0.3, 0.4), (0.1, 0.5, 0.3, 0.6), (0.5, 0.5, 0.3, 0.6)
    cells = [cell(4.0, [closer, further], 2.0), cell(4.0, [closer, no_conflict], 4.0), cell(1.0, [further], 1.0)]
    results = {"cells": cells, "main_testbed": "facts", "common": {"gamma": 4.0, "learning_rate": 0.1}}
    assert closer_table(results).rows == [
        ["GA + GD", "1", "1.0", "0 of 1", "1 of 1"],
        ["GA + GD", "4", "3.0", "2 of 3", "3 of 3"],
    ]
    assert closer_table({**results, "cells": cells[:2]}).rows == [], "one weight is no sweep"
