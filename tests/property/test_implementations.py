"""Every registered combiner, in Rust and in torch: its promises, its formula and the edge rules.

``--hypothesis-profile`` sets the number of drawn pairs: quick, ci or deep.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import settings

import oracle
import retainfirst as rf
from promises import check_edges, check_formula, check_promises
from retainfirst.errors import StatementViolated
from retainfirst.testing import check_combiner
from retainfirst.theory import STATEMENTS, statement
from retainfirst.theory.arrays import FORMATS
from retainfirst.theory.implementations import implementations
from retainfirst.theory.search import search

NAMES = rf.available_combiners()  # before other tests register their own
CASES = [(name, one) for name in NAMES for one in implementations(name)]
every_format = pytest.mark.parametrize("dtype", FORMATS)


def case(name, implementation, dtype):
    """Rust is checked in every format; torch by ``make test`` in two."""
    slow = implementation.name.startswith(f"{name} (torch") and dtype in ("float64", "float16")
    return pytest.param(
        name, implementation, dtype, marks=[pytest.mark.slow] if slow else [], id=f"{implementation.name}-{dtype}"
    )


every_implementation = pytest.mark.parametrize(
    ("name", "implementation", "dtype"), [case(*pair, dtype) for pair in CASES for dtype in FORMATS]
)


@every_implementation
def test_promises(name, implementation, dtype):
    check_promises(name, implementation.call, dtype, settings.default.max_examples)


@every_implementation
def test_the_update_is_the_formula(name, implementation, dtype):
    check_formula(name, implementation.call, dtype, settings.default.max_examples)


@every_implementation
def test_edge_rules(name, implementation, dtype):
    check_edges(name, implementation.call, dtype)


@every_format
@pytest.mark.parametrize(
    ("one", "combiner"),
    [(one, name) for one in STATEMENTS if one.exact for name in (*one.promised_by, *one.exact_only)],
    ids=lambda one: getattr(one, "id", one),
)
def test_statements_hold_before_any_rounding(one, combiner, dtype):
    found = search(replace(one, combiner=combiner), None, dtype, settings.default.max_examples)
    assert found.violation is None
    assert found.judged > 0


@pytest.mark.parametrize("raw", [False, True])
@every_format
@pytest.mark.parametrize("name", ["sago", "sago_keep_retain"])
def test_sago_keeps_its_guarantee_for_any_bits(name, dtype, raw):
    for one in STATEMENTS:
        if one.id in ("T1", "X2"):
            for implementation in implementations(name):
                found = search(one, implementation.call, dtype, settings.default.max_examples, raw=raw)
                assert found.violation is None


def test_every_combiner_is_checked():
    assert set(NAMES) == {*oracle.ELEMENTWISE, *oracle.PROJECTIONS}
    promising = {name for one in STATEMENTS if one.id != "T11" for name in (*one.promised_by, *one.exact_only)}
    assert set(NAMES) - promising == {"sum", "blur", "ngdiff"}  # these promise nothing
    assert set(statement("T11").promised_by) == set(NAMES)  # the guard is for all


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, number) for name in ("sum", "blur", "ngdiff") for number in ("T1", "T2")]
    + [(name, "T1") for name in ("pcgrad", "orthogonal", "gru", "agem")],
)
def test_what_is_not_promised_is_broken(name, number):
    with pytest.raises(StatementViolated, match=number):
        check_combiner(name, (number,), gamma=2.0)


@pytest.mark.parametrize("name", ["orthogonal", "gru", "agem"])
def test_rounding_breaks_the_guarantee_of_every_projection(name):
    with pytest.raises(StatementViolated, match="X2"):
        check_combiner(name, ("X2",), "bfloat16", 500)


def test_the_counterexamples_of_the_documentation():
    """ngdiff opposes a coordinate at equal weights, and the whole retain gradient once gamma is larger than alpha."""
    f, r = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 4.0])
    u = rf.combine(f, r, "ngdiff")
    torch.testing.assert_close(u, torch.tensor([-0.4, 0.8]))
    assert rf.combine(torch.tensor([-1.0]), torch.tensor([1.0]), "ngdiff", gamma=2.0).item() == -1.0
    assert statement("T2").exact_only == ("gru", "agem")
