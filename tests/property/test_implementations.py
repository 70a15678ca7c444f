"""Every combiner, in Rust and in torch, against all that it promises, and so against each other.

``--hypothesis-profile`` chooses how many pairs are drawn: quick, ci or deep.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

import retainfirst as rf
from promises import check_edges, check_promises, check_rule
from retainfirst.theory import STATEMENTS
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.implementations import IMPLEMENTATIONS
from retainfirst.theory.search import search

CASES = [(rule, one) for rule, several in IMPLEMENTATIONS.items() for one in several]
every_implementation = pytest.mark.parametrize(("rule", "implementation"), CASES, ids=[one.name for _, one in CASES])
every_format = pytest.mark.parametrize("dtype", FORMATS)


@every_format
@every_implementation
def test_promises(rule, implementation, dtype):
    check_promises(rule, implementation.call, dtype, settings.default.max_examples)


@every_format
@every_implementation
def test_the_update_is_the_rules(rule, implementation, dtype):
    check_rule(rule, implementation.call, dtype, settings.default.max_examples)


@every_format
@every_implementation
def test_edge_rules(rule, implementation, dtype):
    check_edges(rule, implementation.call, dtype)


@every_format
@pytest.mark.parametrize(
    "statement", [one for one in STATEMENTS if one.exact and one.promised_by], ids=lambda one: one.id
)
def test_statements_hold_before_any_rounding(statement, dtype):
    found = search(statement, None, dtype, settings.default.max_examples)
    assert found.violation is None
    assert found.judged > 0


@pytest.mark.parametrize("raw", [False, True])
@every_format
@pytest.mark.parametrize("name", ["sago", "sago_keep_retain"])
def test_sago_keeps_its_guarantee_for_any_bits(name, dtype, raw):
    for statement in STATEMENTS:
        if statement.id in ("T1", "X2"):
            for implementation in IMPLEMENTATIONS[name]:
                found = search(statement, implementation.call, dtype, settings.default.max_examples, raw=raw)
                assert found.violation is None


def test_every_combiner_is_held_against_the_statements():
    assert set(IMPLEMENTATIONS) == set(rf.available_combiners())
    promising = {rule for statement in STATEMENTS for rule in statement.promised_by}
    assert promising == {"sago", "sago_keep_retain", "pcgrad"}  # plain addition and BLUR promise nothing
