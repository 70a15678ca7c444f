"""An update without measurements has the same bits."""

from __future__ import annotations

import pytest
import torch

import retainfirst as rf
from oracle import gradients, same_bits
from retainfirst import kernels
from retainfirst.scope import Groups

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SIZES = (0, 1, 7, 33, 300)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("name", rf.available_combiners())
def test_the_update_has_the_same_bits(name, scope, backend, dtype):
    combiner = rf.make_combiner(name, gamma=0.7)
    pairs = [gradients(n, dtype, seed=n) for n in SIZES]
    if dtype != torch.float16:
        pairs.append(
            tuple(torch.tensor([1e30, -1e-30, 0.0, float("nan"), float("inf")], dtype=dtype) for _ in range(2))
        )
    found = []
    for measure in (True, False):
        forget, retain = ([x.clone() for x in xs] for xs in zip(*pairs, strict=True))
        with kernels.use_backend(backend):
            combiner.combine_named_(forget, retain, Groups.without_names(len(pairs), scope), measure=measure)
        found.append(retain)
    assert all(map(same_bits, *found))


@pytest.mark.parametrize("name", ["sago", "pcgrad", "gru"])
def test_a_step_without_measurements(name):
    updates = []
    for measure in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        step = rf.TwoTaskStep(model, name, where="0")
        for seed in range(2):
            x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
            with step.forget():
                (-model(x).square().mean()).backward()
            with step.retain():
                model(-x).square().sum().backward()
            geometry = step.combine(measure=measure)
            assert (geometry is None) == (not measure)
            updates.append([p.grad.clone() for p in model.parameters()])
            model.zero_grad()
    assert all(torch.equal(a, b) for i in (0, 1) for a, b in zip(updates[i], updates[i + 2], strict=True))


def test_broken_gradients_are_found_all_the_same():
    model = torch.nn.Linear(2, 1)
    step = rf.TwoTaskStep(model, "sago", check_finite=True)
    with step.forget():
        (model(torch.ones(1, 2)) * float("nan")).sum().backward()
    with step.retain():
        model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(rf.NonFiniteGradient):
        step.combine(measure=False)
