"""Set-ups that once went wrong silently in a step: they work, or are refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retainfirst as rf
from retainfirst.schedule import Linear, parse_weight


def make(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, rf.TwoTaskStep(model, options.pop("combiner", "sago"), **options)


X = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)


def both(model, step):
    with step.forget():
        (-model(X).square().mean()).backward()
    with step.retain():
        model(X.flip(1)).square().mean().backward()


def gradients(model):
    found = []
    for x, sign in ((X, -1), (X.flip(1), 1)):
        model.zero_grad()
        (sign * model(x).square().mean()).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    model.zero_grad()
    return found


def test_a_parameter_unfrozen_between_two_blocks_is_named():
    model, step = make()
    model[2].requires_grad_(False)
    with step.forget():
        (-model(X).square().mean()).backward()
    model[2].requires_grad_(True)
    with (
        pytest.raises(rf.RetainFirstError, match=r"2.weight: it was unfrozen or replaced between two blocks"),
        step.retain(),
    ):
        pass
    assert all(p.grad is None for p in model.parameters())
    both(model, step)  # the next step is whole
    step.combine()


def test_an_optimiser_in_the_backward_pass_is_named():
    model, step = make()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def hook(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    with pytest.raises(rf.StaleGradient, match=r"0.weight: its value changed inside `with step.forget\(\):`.*hooks"):
        both(model, step)


@pytest.fixture
def accelerator():
    accelerate = pytest.importorskip("accelerate")
    yield accelerate.Accelerator(gradient_accumulation_steps=2, cpu=True)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def accumulate(accelerator, combine):
    """Train by accelerate's loop, two microbatches a step; ``combine`` says whether to combine after a microbatch."""
    model, _ = make()
    start = model[0].weight.detach().clone()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    step = rf.TwoTaskStep(model)
    for _ in range(4):
        with accelerator.accumulate(model):
            with step.forget():
                accelerator.backward(-model(X).square().mean())
            with step.retain():
                accelerator.backward(model(X.flip(1)).square().mean())
            if combine():
                step.combine()
            optimizer.step()
            optimizer.zero_grad()
    assert not torch.equal(model[0].weight, start)
    return step.steps


def test_accelerates_accumulation_combines_where_gradients_are_synchronised(accelerator):
    assert accumulate(accelerator, lambda: accelerator.sync_gradients) == 2
    with pytest.raises(
        rf.StaleGradient, match=r"accumulate\(\), call combine\(\) only `if accelerator.sync_gradients`"
    ):
        accumulate(accelerator, lambda: True)


def test_sparse_then_dense_microbatches_are_named():
    embedding = nn.Embedding(4, 2, sparse=True)
    step = rf.TwoTaskStep(embedding)
    with step.forget():
        embedding(torch.tensor([1])).sum().backward()
    with (
        pytest.raises(rf.DtypeMismatch, match="weight: its gradient is torch.sparse_coo.*torch.strided.*sparse=False"),
        step.forget(),
    ):
        embedding.weight.sum().backward()


@pytest.mark.parametrize("name", ["alpha", "gamma", "scope", "stream", "offload", "trained", "where"])
def test_an_attribute_that_would_do_nothing_raises(name):
    _, step = make()
    with pytest.raises(AttributeError, match=f"setting {name} would change nothing"):
        setattr(step, name, 2.0)


def test_another_combiner_counts_from_the_next_combination():
    model, step = make(combiner="sum")
    f, r = gradients(model)
    both(model, step)
    step.combiner = step.combiner.with_weights(gamma=2.0)
    step.combine()
    assert all(torch.equal(p.grad, r[name] + 2.0 * f[name]) for name, p in model.named_parameters())
    with pytest.raises(rf.RetainFirstError, match="must be a combiner"):
        step.combiner = "sago"


def test_weights_follow_a_schedule():
    model, step = make(combiner="sum", gamma=Linear(0.0, 2.0, 2), alpha=lambda step: 1.0 + step)
    f, r = gradients(model)
    for alpha, gamma in ((1.0, 0.0), (2.0, 1.0), (3.0, 2.0), (4.0, 2.0)):
        both(model, step)
        step.combine()
        for name, p in model.named_parameters():
            assert torch.equal(p.grad, alpha * r[name] + gamma * f[name])
        model.zero_grad()
    assert step.state_dict() == {"steps": 4}
    other = rf.TwoTaskStep(model, "sum", gamma=Linear(0.0, 8.0, 8))
    other.load_state_dict(step.state_dict())
    both(model, other)
    other.combine()
    assert other.combiner.gamma == 4.0


def test_a_schedule_out_of_range_is_refused_when_it_gets_there():
    model, step = make(gamma=lambda step: 1.0 - step)
    both(model, step)
    step.combine()
    model.zero_grad()
    both(model, step)
    step.combine()
    model.zero_grad()
    both(model, step)
    with pytest.raises(rf.RetainFirstError, match="gamma must be a finite number at least 0, not -1.0"):
        step.combine()


@pytest.mark.parametrize(
    ("text", "weight"),
    [("0.5", 0.5), (2, 2), ("1e-3", 1e-3), ("0:4:100", Linear(0.0, 4.0, 100)), (".1:1.:3", Linear(0.1, 1.0, 3))],
)
def test_weights_are_read(text, weight):
    assert parse_weight(text) == weight


@pytest.mark.parametrize("text", ["", "a", "1:2", "1:2:x", "1:2:0", True, "nan"])
def test_other_texts_are_no_weights(text):
    with pytest.raises(rf.RetainFirstError):
        parse_weight(text)


@pytest.mark.parametrize("where", [r"^0\.", lambda name, p: name.startswith("0")])
@pytest.mark.parametrize("options", [{}, {"stream": True}])
def test_where_chooses_what_the_combiner_combines(where, options):
    model, step = make(combiner="pcgrad", gamma=3.0, where=where, **options)
    f, r = gradients(model)
    both(model, step)
    geometry = step.combine()
    mine = [name for name in f if name.startswith("0")]
    expected = rf.combine({n: f[n] for n in mine}, {n: r[n] for n in mine}, "pcgrad", gamma=3.0)
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, expected[name] if name in mine else r[name] + 3.0 * f[name])
    assert set(geometry.per_group()) == set(mine)


def test_where_must_select_something():
    with pytest.raises(rf.RetainFirstError, match="where selects none of the 4 trained parameters, such as 0.weight"):
        make(where="attention")
    with pytest.raises(rf.RetainFirstError, match="no regular expression"):
        make(where="(")


def test_losses_may_be_normalised_at_the_end():
    """Means over unequal microbatches: each weighted by its rows, divided by the window's rows at combine()."""
    model, step = make(combiner="pcgrad")
    f, r = gradients(model)
    for rows in (slice(0, 1), slice(1, 5)):
        n = len(X[rows])
        with step.forget():
            (-n * model(X[rows]).square().mean()).backward()
        with step.retain():
            (n * model(X.flip(1)[rows]).square().mean()).backward()
    step.combine(forget_scale=1 / 5, retain_scale=torch.tensor(0.2, dtype=torch.float64))
    expected = rf.combine(f, r, "pcgrad")
    for name, p in model.named_parameters():
        # Sums of five rows in another order, in float64.
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-13, atol=1e-15)
