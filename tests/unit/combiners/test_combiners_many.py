"""Lists of tensors, which are checked and combined all at once: odd and bad ones among plain ones, and groups of one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import retainfirst as rf
from backends import BACKENDS
from oracle import ELEMENTWISE, gradients, same_bits
from retainfirst import kernels


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request, default_device):
    with kernels.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize(
    ("forget", "retain", "error", "text"),
    [
        (torch.ones(6), torch.ones(2, 3), rf.ShapeMismatch, r"\(6,\).*\(2, 3\)"),
        (torch.ones(2), torch.ones(2).double(), rf.DtypeMismatch, "float32.*float64"),
        (torch.ones(2).to(torch.complex64), torch.ones(2).to(torch.complex64), rf.DtypeMismatch, "complex64"),
        (torch.ones(2), torch.ones(2, device="meta"), rf.DtypeMismatch, "cpu.*meta"),
        (torch.eye(2), torch.eye(2).to_sparse(), rf.DtypeMismatch, "sparse_coo"),
        (torch.eye(2).to_sparse(), torch.eye(2), rf.DtypeMismatch, "sparse_coo"),
        (torch.ones(2), None, rf.DtypeMismatch, "NoneType"),
    ],
)
def test_one_bad_pair_among_many_is_named(forget, retain, error, text):
    good = [torch.ones(2), torch.ones(1, 3)]
    written = [x.clone() for x in good]
    with pytest.raises(error, match=f"tensor 1.*{text}"):
        rf.SAGO().combine_([good[0], forget, good[1]], [written[0], retain, written[1]])
    assert all(map(torch.equal, good, written)), "refused before anything is written"


def test_dtypes_that_match_as_sets_but_not_as_pairs():
    narrow, wide = torch.ones(2), torch.ones(2).double()
    with pytest.raises(rf.DtypeMismatch, match="tensor 0: forget is torch.float32, retain torch.float64"):
        rf.SAGO().combine_([narrow, wide], [wide.clone(), narrow.clone()])


@pytest.mark.parametrize("name", rf.available_combiners())
def test_odd_tensors_among_plain_ones_get_their_update(name):
    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def odd() -> list[Tensor]:
        made = [randn(5), torch._neg_view(randn(5)), randn(3, 4).t(), torch.nn.Parameter(randn(2))]
        return [*made, torch.ones(0), randn(4).double(), randn(3)]

    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    forget, retain = odd(), odd()
    rule = rf.make_combiner(name) if name in ELEMENTWISE else rf.make_combiner(name, scope="tensor")
    expected = [rf.combine(f, r, rule) for f, r in zip(forget, retain, strict=True)]
    rule.combine_(forget, retain)
    for found, one in zip(retain, expected, strict=True):
        torch.testing.assert_close(found.detach().resolve_neg(), one.detach().resolve_neg(), rtol=0, atol=0)


def test_groups_of_one_are_those_of_the_scope():
    pairs = [gradients(n, torch.float64, seed=n) for n in (3, 5, 9)]
    updates = []
    for groups in (None, [[0], [1], [2]], [[2], [0], [1]]):
        updates.append([r.clone() for _, r in pairs])
        geometry = rf.PCGrad().combine_([f for f, _ in pairs], updates[-1], groups=groups)
        order = [0, 1, 2] if groups is None else [i for [i] in groups]
        norms = [one.norm_retain for one in geometry.per_group().values()]
        assert norms == pytest.approx([pairs[i][1].norm().item() for i in order])
    for other in updates[1:]:
        assert all(map(same_bits, updates[0], other))
