"""A step on a GPU never waits for the device: torch raises wherever one would."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retainfirst as rf
from retainfirst import kernels
from retainfirst.scope import SCOPES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

RULES = [
    ("sum", {}),
    ("sago", {}),
    ("sago_keep_retain", {}),
    *((rule, {"scope": scope}) for rule in ("pcgrad", "blur") for scope in SCOPES),
    ("pcgrad", {"round_toward_retain": True}),
]


@pytest.fixture
def no_waiting():
    """Switch torch's check on, after what is only waited for in the first step."""

    def switch(on: bool) -> None:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if on else "default")

    yield switch
    switch(False)


def test_the_check_finds_a_wait(no_waiting):
    x = torch.ones(1, device="cuda")
    no_waiting(True)
    with pytest.raises(RuntimeError, match="synchronizing"):
        x.item()


@pytest.mark.parametrize("backend", kernels.BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_step(rule, options, dtype, backend, no_waiting):
    model = nn.Sequential(*[nn.Linear(9, 9) for _ in range(4)]).to("cuda", dtype)
    step = rf.TwoTaskStep(model, rule, **options)
    for check in (False, True):
        x = torch.randn(8, 9, device="cuda", dtype=dtype)
        with step.forget():
            (-model(x).square().mean()).backward()
        with step.retain():
            model(x + 1).square().mean().backward()
        with kernels.use_backend(backend):
            no_waiting(check)
            geometry = step.combine()
            no_waiting(False)
        model.zero_grad()
    assert geometry.norm_update > 0


@pytest.mark.parametrize(("rule", "options"), [("sago", {}), ("pcgrad", {"scope": "global"})])
def test_several_dtypes_and_layouts(rule, options, no_waiting):
    combiner = rf.make_combiner(rule, **options)
    for check in (False, True):
        x = torch.randn(30, 40, device="cuda")
        forget = [-x, x.half(), x.double(), x[:, ::2], x.t()]
        retain = [y.abs() + 1 for y in forget]
        no_waiting(check)
        combiner.combine_(forget, retain)
        no_waiting(False)


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("enforce", [False, True])
@pytest.mark.parametrize("rule", ["sago", "pcgrad"])
def test_guarded_step(rule, enforce, every, no_waiting):
    model = nn.Sequential(*[nn.Linear(9, 9) for _ in range(4)]).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters())
    step = rf.TwoTaskStep(model, rule)
    guard = step.guard(optimizer, enforce=enforce, every=every)
    for check in (False, True):
        x = torch.randn(8, 9, device="cuda")
        with step.forget():
            (-model(x).square().mean()).backward()
        with step.retain():
            model(x + 1).square().mean().backward()
        no_waiting(check)
        step.combine()
        optimizer.step()
        no_waiting(False)
        optimizer.zero_grad()
    assert (guard.geometry is None) == (every == 0)
