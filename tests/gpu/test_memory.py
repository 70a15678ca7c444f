"""offload and stream on a GPU: the same bits, and no gradient set more than plain training holds."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

import retainfirst as rf

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

MODES = {
    "as it is": {},
    "offload": {"offload": "cpu"},
    "stream": {"stream": True},
    "both": {"offload": "cpu", "stream": True},
}
WIDTH, LAYERS = 2048, 16
SET = 4 * LAYERS * WIDTH**2


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))).cuda()


def collect(step, model, order):
    for i, task in enumerate(order):
        x = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(i)).cuda()
        with step.forget() if task == "F" else step.retain():
            (model(x).square().mean() * (-1 if task == "F" else 1)).backward()


@pytest.mark.parametrize("name", ["sago", "pcgrad", "blur"])
@pytest.mark.parametrize(("mode", "order"), [("offload", "FR"), ("offload", "RF"), ("offload", "FRFR"), ("stream", "FR"),
                                             ("both", "FFR")])  # fmt: skip
def test_no_bit_differs(mode, order, name):
    model = make_model()
    updates = []
    for options in ({}, MODES[mode]):
        twin = copy.deepcopy(model)
        step = rf.TwoTaskStep(
            twin, rf.make_combiner(name, **({} if name == "sago" else {"scope": "tensor"})), **options
        )
        collect(step, twin, order)
        geometry = step.combine()
        updates.append(([p.grad for p in twin.parameters()], geometry.as_dict()))
    assert all(torch.equal(a, b) for a, b in zip(updates[0][0], updates[1][0], strict=True))
    assert updates[1][1] == pytest.approx(updates[0][1], rel=1e-9)  # sums in another order


def test_waiting_gradients_are_pinned_and_off_the_device():
    model = make_model()
    step = rf.TwoTaskStep(model, "sago", offload="cpu")
    collect(step, model, "FR")
    waiting = step._forget.gradients.values()
    assert all(gradient.device.type == "cpu" and gradient.is_pinned() for gradient in waiting)


def peak(act):
    """Bytes at most above what is held before, in gradient sets; of the second call, as the first allocates workspaces."""
    act()
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    act()
    return (torch.cuda.max_memory_allocated() - before) / SET


@pytest.mark.parametrize(("mode", "sets"), [("as it is", 2), ("offload", 1), ("stream", 1), ("both", 1)])
def test_gradient_sets_on_the_device(mode, sets):
    model = make_model()
    step = rf.TwoTaskStep(model, "sago", **MODES[mode])

    def act():
        collect(step, model, "FR")
        step.combine()
        model.zero_grad()

    # One weight's worth of what is brought over, up to two of what a backward pass has in hand, and small activations.
    assert sets - 0.01 <= peak(act) <= sets + 3 / LAYERS
