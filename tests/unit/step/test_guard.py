"""The guard: it measures the step that the parameters make, and puts back what works against the retain gradient."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import retainfirst as rf
import tiny
from guarded import flat, gradients, make_model, passes, values

pytestmark = pytest.mark.usefixtures("default_device")

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05),
    "SGD, momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "AdamW, for-loop": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5, foreach=False),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5, foreach=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
}
COMBINERS = ("sum", "pcgrad", "sago", "sago_keep_retain", "gru")


def run(combiner, optimizer, *, enforce, steps=6, dtype=torch.float64, **options):
    """Yield the guard, the parameters before and after, and the two gradients of each step."""
    model = make_model(dtype)
    step = rf.TwoTaskStep(model, combiner, gamma=3.0)
    chosen = OPTIMIZERS[optimizer](model.parameters())
    guard = step.guard(chosen, enforce=enforce, **options)
    for seed in range(steps):
        forget, retain = gradients(model, seed)
        before = values(model)
        passes(model, step, seed)
        step.combine()
        chosen.step()
        chosen.zero_grad()
        yield guard, before, values(model), forget, retain


@pytest.mark.parametrize("enforce", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("combiner", COMBINERS)
def test_what_is_measured_is_the_definition(combiner, optimizer, enforce):
    for guard, before, after, forget, retain in run(combiner, optimizer, enforce=enforce):
        d, f, r = flat(after) - flat(before), flat(forget), flat(retain)
        found = guard.geometry
        # float64 sums of 67 products; d is exact but for one rounding.
        assert found.norm_step == pytest.approx(d.norm().item(), rel=1e-13)
        assert found.cos_step_retain == pytest.approx(-(d @ r / d.norm() / r.norm()).item(), abs=1e-13)
        assert found.cos_step_forget == pytest.approx(-(d @ f / d.norm() / f.norm()).item(), abs=1e-13)
        assert found.opposed_fraction == ((d > 0) & (r > 0) | (d < 0) & (r < 0)).sum().item() / len(d)
        if abs(found.cos_step_retain) > 1e-12:  # GRU and plain SGD make it zero but for rounding
            assert found.opposes == ((d @ r).item() > 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("combiner", COMBINERS)
def test_enforced_no_coordinate_works_against_retain(combiner, optimizer, dtype):
    moved = 0
    for guard, before, after, _, retain in run(combiner, optimizer, enforce=True, dtype=dtype):
        b, a, r = flat(before), flat(after), flat(retain)
        assert not ((a > b) & (r > 0) | (a < b) & (r < 0)).any()
        assert not guard.geometry.opposes
        assert guard.geometry.opposed_fraction == 0
        moved += (a != b).sum().item()
    assert moved > 0


@pytest.mark.parametrize("combiner", COMBINERS)
def test_other_coordinates_move_as_without_the_guard(combiner):
    model = make_model()
    step = rf.TwoTaskStep(model, combiner, gamma=3.0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.5)
    step.guard(optimizer, enforce=True)
    put_back = 0
    for seed in range(4):
        twin = copy.deepcopy(model)
        other = torch.optim.AdamW(twin.parameters(), 0.01, weight_decay=0.5)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        _, retain = gradients(model, seed)
        passes(model, step, seed)
        step.combine()
        for p, q in zip(twin.parameters(), model.parameters(), strict=True):
            p.grad = q.grad.clone()
        before = flat(values(model))
        update = flat({name: p.grad for name, p in model.named_parameters()})
        optimizer.step()
        optimizer.zero_grad()
        other.step()
        alone, after, r = flat(values(twin)), flat(values(model)), flat(retain)
        opposing = (alone - before) * (update if combiner.startswith("sago") else r) > 0
        if combiner.startswith("sago"):
            opposing |= update == 0
        assert torch.equal(after, torch.where(opposing, before, alone))
        put_back += opposing.sum().item()
    assert put_back > 0


class DecaysInPlace(torch.optim.SGD):
    """Adds weight decay to ``.grad`` itself, as many optimisers outside torch do."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.add_(p, alpha=10.0)
        super().step()


def test_an_optimiser_may_change_the_gradient_in_place():
    torch.optim.SGD([torch.zeros(1)])  # torch then hooks SGD.step(), which the subclass calls inside its own
    model = make_model()
    step, optimizer = rf.TwoTaskStep(model, "sago", gamma=3.0), DecaysInPlace(model.parameters(), 0.01)
    guard = step.guard(optimizer, enforce=True)
    for seed in range(3):
        _, retain = gradients(model, seed)
        before = flat(values(model))
        passes(model, step, seed)
        step.combine()
        optimizer.step()
        optimizer.zero_grad()
        assert not ((flat(values(model)) - before) * flat(retain) > 0).any()
        assert guard.geometry.put_back_fraction > 0


def test_enforcement_can_be_switched_between_two_steps():
    model = make_model()
    step, optimizer = rf.TwoTaskStep(model, "sum", gamma=3.0), torch.optim.AdamW(model.parameters(), 0.01)
    guard = step.guard(optimizer)
    for seed in range(4):
        guard.enforce = seed % 2 == 1
        passes(model, step, seed)
        step.combine()
        guard.enforce = not guard.enforce  # counts from the next combination
        optimizer.step()
        optimizer.zero_grad()
        assert (guard.geometry.opposed_fraction == 0) == (seed % 2 == 1)


@pytest.mark.parametrize("combiner", ["sago", "sago_keep_retain"])
def test_it_is_the_identity_where_the_optimiser_has_no_memory(combiner):
    """Theorem T10."""
    for guard, *_ in run(combiner, "SGD", enforce=True):
        assert guard.geometry.put_back_fraction == 0


def test_sago_keeps_no_gradient_unless_it_measures():
    model = make_model()
    for combiner, every, kept in (("sago", 0, 0), ("sago", 1, 6), ("pcgrad", 0, 6)):
        step = rf.TwoTaskStep(model, combiner)
        guard = step.guard(torch.optim.AdamW(model.parameters()), enforce=True, every=every)
        passes(model, step, 0)
        step.combine()
        assert len(guard._retain) == kept
        model.zero_grad()


def test_only_some_steps_are_measured_and_the_others_are_not_paid_for(monkeypatch):
    model = make_model()
    step, optimizer = rf.TwoTaskStep(model, "pcgrad"), torch.optim.AdamW(model.parameters())
    guard = step.guard(optimizer, every=3)
    copies = []
    monkeypatch.setattr(type(guard), "_copy", lambda _, x: copies.append(step.steps) or x.detach().clone())
    measured = []
    for seed in range(7):
        passes(model, step, seed)
        step.combine()
        optimizer.step()
        optimizer.zero_grad()
        measured.append(guard.geometry and guard.geometry.step)
    assert measured == [None, None, 3, 3, 3, 6, 6]
    assert set(copies) == {2, 3, 5, 6}  # at the combinations of steps 3 and 6, and at their optimiser's steps


def test_accumulation_clipping_groups_and_streaming():
    results = []
    for stream in (False, True):
        model = make_model()
        step = rf.TwoTaskStep(model, "pcgrad", stream=stream)
        groups = [
            {"params": model[0].parameters()},
            {"params": [*model[2].parameters(), *model[3].parameters()], "lr": 0.1},
        ]
        optimizer = torch.optim.AdamW(groups, 0.01)
        guard = step.guard(optimizer, enforce=True)
        for seed in range(3):
            passes(model, step, seed, microbatches=1 if stream else 3)
            step.combine()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            assert guard.geometry.opposed_fraction == 0
            assert guard.geometry.put_back_fraction > 0 or seed == 0
        results.append(guard.geometry.step)
    assert results == [3, 3]


def test_only_what_the_optimiser_moves_counts():
    model = make_model()
    step = rf.TwoTaskStep(model, "sago", trained=model[0].parameters(), where=r"0\.weight")
    optimizer = torch.optim.AdamW(model[0].parameters(), 0.01)
    guard = step.guard(optimizer, enforce=True)
    for seed in range(3):
        _, retain = gradients(model, seed)
        before = values(model)
        passes(model, step, seed)
        step.combine()
        # Not selected, so combined by the plain sum: there the guard needs the retain gradient.
        assert "0.bias" in guard._retain
        optimizer.step()
        model.zero_grad()
        after = values(model)
        for name in ("0.weight", "0.bias"):
            d = after[name] - before[name]
            assert not (d * retain[name] > 0).any()
        assert guard.geometry.norm_step == pytest.approx(
            math.hypot(*((after[n] - before[n]).norm().item() for n in ("0.weight", "0.bias")))
        )


def test_a_step_that_a_loss_scaler_skips_is_none():
    model = make_model(torch.float32)
    step, optimizer = rf.TwoTaskStep(model, "pcgrad"), torch.optim.AdamW(model.parameters(), 0.01)
    device = torch.get_default_device()
    guard, scaler = step.guard(optimizer, enforce=True), torch.amp.GradScaler(device.type, init_scale=2.0**4)
    for seed, factor in enumerate((1.0, math.inf, 1.0)):
        before = flat(values(model))
        x = torch.randn(5, 4, generator=torch.Generator(device).manual_seed(seed))
        with step.forget():
            scaler.scale(-model(x).square().mean() * factor).backward()
        with step.retain():
            scaler.scale((model(-x) - x[:, :3]).square().mean()).backward()
        step.combine()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        skipped = factor == math.inf
        assert torch.equal(flat(values(model)), before) == skipped
        assert guard.geometry.step == (1 if skipped else seed + 1)


def test_a_step_that_a_fused_optimiser_skips_is_none():
    model = make_model(torch.float32)
    step, optimizer = rf.TwoTaskStep(model, "sago"), torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    guard = step.guard(optimizer, enforce=True)
    passes(model, step, 0)
    step.combine()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)  # as GradScaler does
    optimizer.step()
    assert guard.geometry is None


def test_nan_shows_and_is_not_put_back():
    for combiner in ("sum", "sago"):
        model = make_model()
        step, optimizer = rf.TwoTaskStep(model, combiner), torch.optim.SGD(model.parameters(), 0.1)
        guard = step.guard(optimizer, enforce=True)
        with step.forget():
            (-model(torch.full((2, 4), math.nan, dtype=torch.float64)).square().mean()).backward()
        with step.retain():
            model(torch.ones(2, 4, dtype=torch.float64)).square().mean().backward()
        step.combine()
        optimizer.step()
        assert model[0].weight.isnan().all()
        assert math.isnan(guard.geometry.norm_step)
        assert math.isnan(guard.geometry.cos_step_retain)


def test_a_parameter_that_no_pass_reaches_stays():
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3)})
    step, optimizer = rf.TwoTaskStep(model, "pcgrad"), torch.optim.AdamW(model.parameters(), 0.1)
    guard, before = step.guard(optimizer, enforce=True), values(model["unused"])
    for _ in range(2):
        with step.forget():
            (-model["used"](torch.ones(2, 4)).square().mean()).backward()
        with step.retain():
            model["used"](-torch.ones(2, 4)).square().mean().backward()
        step.combine()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(flat(values(model["unused"])), flat(before))
    assert guard.geometry.norm_step > 0


def test_a_compiled_step_is_guarded():
    model = make_model()
    step, optimizer = rf.TwoTaskStep(model, "pcgrad", gamma=3.0), torch.optim.AdamW(model.parameters(), 0.01)
    guard = step.guard(optimizer, enforce=True)
    compiled = torch.compile(optimizer.step, backend="eager")
    for seed in range(3):
        passes(model, step, seed)
        step.combine()
        compiled()
        optimizer.zero_grad()
        assert guard.geometry.step == seed + 1
        assert guard.geometry.opposed_fraction == 0
    assert guard.geometry.put_back_fraction > 0


def test_the_guard_of_a_wrapped_optimiser_watches_the_inner_one():
    accelerate = pytest.importorskip("accelerate")
    model = make_model(torch.float32)
    inner = torch.optim.AdamW(model.parameters(), 0.01)
    optimizer = accelerate.Accelerator(cpu=True).prepare(inner)
    step = rf.TwoTaskStep(model, "pcgrad")
    guard = step.guard(optimizer)
    passes(model, step, 0)
    step.combine()
    optimizer.step()
    assert guard.geometry.step == 1
    with pytest.raises(rf.RetainFirstError, match="AdamW has a guard already"):
        rf.TwoTaskStep(model, "sago").guard(inner)


def test_the_adapter_of_a_model_is_guarded():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny.tiny_llama(), peft.LoraConfig(r=2, target_modules="all-linear"))
    step, optimizer = rf.TwoTaskStep(model, "pcgrad", gamma=3.0), torch.optim.AdamW(model.parameters(), 0.01)
    guard, frozen = step.guard(optimizer, enforce=True), values(model.get_input_embeddings())
    for seed in range(3):
        with step.forget():
            (-model(**tiny.tiny_batch(seed=seed)).loss).backward()
        with step.retain():
            model(**tiny.tiny_batch(seed=seed + 10)).loss.backward()
        step.combine()
        optimizer.step()
        optimizer.zero_grad()
        assert guard.geometry.opposed_fraction == 0
    assert guard.geometry.put_back_fraction > 0
    assert torch.equal(flat(values(model.get_input_embeddings())), flat(frozen))


def test_removed_it_does_nothing():
    model = make_model()
    step, optimizer = rf.TwoTaskStep(model, "sum"), torch.optim.AdamW(model.parameters())
    guard = step.guard(optimizer, enforce=True)
    guard.remove()
    passes(model, step, 0)
    step.combine()
    optimizer.step()
    optimizer.step()
    assert guard.geometry is None
    step.guard(optimizer).remove()


def test_guard_step_in_a_loop_of_ones_own():
    before, after = [torch.tensor([1.0, 1.0, 1.0, math.nan])], [torch.tensor([2.0, 0.0, 2.0, 1.0])]
    assert rf.guard_step_(before, after, [torch.tensor([1.0, 1.0, 0.0, 1.0])]) == 1
    assert after[0].tolist() == [1.0, 0.0, 2.0, 1.0]
    assert rf.guard_step_([], [], []) == 0
    with pytest.raises(rf.RetainFirstError, match="same shapes"):
        rf.guard_step_(before, after, [torch.ones(3)])
