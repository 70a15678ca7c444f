"""offload="cpu": the waiting gradients keep their values wherever they lie. On a GPU: tests/gpu/test_memory.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import retainfirst as rf
from retainfirst import kernels
from retainfirst.engines import _host
from retainfirst.kernels import _dispatch

ORDERS = ("FR", "RF", "FRFRFR", "FFRR", "RFFR", "FRRF")


@pytest.fixture
def moves(monkeypatch):
    """Without a second device: what would be moved to the host is moved to another place on it."""
    moved = []
    monkeypatch.setattr(_host, "_is_away", lambda gradient: moved.append(gradient.data_ptr()) is None)
    return moved


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3, bias=False)).double()


def run(model, order, name="pcgrad", **options):
    twin = copy.deepcopy(model)
    step, optimizer = rf.TwoTaskStep(twin, name, gamma=0.5, **options), torch.optim.SGD(twin.parameters(), lr=0.1)
    for i in range(2):
        for j, task in enumerate(order):
            x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(10 * i + j))
            last = task not in order[j + 1 :]
            with step.forget(last=last) if task == "F" else step.retain(last=last):
                (twin(x).square().mean() * (-1 if task == "F" else 1)).backward()
        geometry = step.combine()
        optimizer.step()
        optimizer.zero_grad()
    return [*twin.parameters()], geometry.as_dict()


@pytest.mark.parametrize("order", ORDERS)
def test_offloading_changes_no_bit(model, moves, order):
    plain, geometry = run(model, order)
    assert not moves
    moved, other = run(model, order, offload="cpu")
    assert moves
    assert all(torch.equal(p, q) for p, q in zip(plain, moved, strict=True))
    assert other == geometry


def test_with_streaming(model, moves):
    plain, _ = run(model, "FFR")
    moved, _ = run(model, "FFR", offload="cpu", stream=True)
    assert moves
    assert all(torch.equal(p, q) for p, q in zip(plain, moved, strict=True))


def test_a_model_on_the_cpu_moves_nothing(model):
    step = rf.TwoTaskStep(model, offload="cpu")
    with step.forget():
        (-model(torch.ones(1, 4, dtype=torch.float64)).sum()).backward()
    before = [gradient.data_ptr() for gradient in step._forget.gradients.values()]
    with step.retain():
        pass
    assert [gradient.data_ptr() for gradient in step._forget.gradients.values()] == before


def test_another_place_is_refused(model):
    with pytest.raises(rf.RetainFirstError, match="offload must be \"cpu\" or None, not 'disk'"):
        rf.TwoTaskStep(model, offload="disk")


@pytest.mark.parametrize("most", [1, 300, 10**9])
def test_bringing_over_in_parts_gives_the_same(monkeypatch, most):
    monkeypatch.setattr(_dispatch, "BROUGHT_OVER", most)
    generator = torch.Generator().manual_seed(0)
    kinds = (torch.float32, torch.bfloat16, torch.float64)
    f, r = ([torch.randn(i * 7 % 23, generator=generator).to(kinds[i % 3]) for i in range(9)] for _ in range(2))
    weights = torch.arange(1.0, 10.0, dtype=torch.float64)

    def work(module, forget, retain, chosen):
        return module.linear_(forget, retain, weights[chosen or slice(None)], -weights[chosen or slice(None)])

    whole, parts = ([x.clone() for x in r] for _ in range(2))
    table = kernels.linear_(f, whole, weights, -weights)
    assert torch.equal(_dispatch._bring_over("auto", f, parts, work), table)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
