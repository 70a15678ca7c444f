"""TwoTaskStep: what it collects is what autograd gives each loss alone, and nothing gets lost or left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import retainfirst as rf
import tiny
from oracle import elementwise
from retainfirst.schedule import Linear


class TwoHeads(nn.Module):
    """A trunk that both tasks use, a head for each, a frozen layer, and one that nothing reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.forget_head = nn.Linear(4, 1)
        self.retain_head = nn.Linear(4, 1)
        self.unused = nn.Linear(4, 1)

    def forward(self, x, task):
        return getattr(self, f"{task}_head")(self.frozen(torch.tanh(self.trunk(x)))).square().mean()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TwoHeads()


def data(seed):
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))


def alone(model, losses):
    """The gradients of a sum of losses, by plain autograd on a copy."""
    twin = copy.deepcopy(model)
    sum(loss(twin) for loss in losses).backward()
    return {name: p.grad for name, p in twin.named_parameters()}


def collect(step, model, seeds=(1,)):
    for seed in seeds:
        with step.forget():
            (-model(data(seed), "forget")).backward()
        with step.retain():
            model(data(seed + 10), "retain").backward()


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3, 4)])
@pytest.mark.parametrize("name", ["sum", "sago", "sago_keep_retain"])
def test_the_update_is_the_rule_on_each_tasks_own_gradient(model, name, seeds):
    f = alone(model, [lambda m, s=s: -m(data(s), "forget") for s in seeds])
    r = alone(model, [lambda m, s=s: m(data(s + 10), "retain") for s in seeds])
    step = rf.TwoTaskStep(model, name, alpha=0.5, gamma=2.0)
    collect(step, model, seeds)
    step.combine()
    for key, p in model.named_parameters():
        zero = torch.zeros_like(p)
        if f[key] is None and r[key] is None:
            assert p.grad is None, key
        else:
            mine = [x if x is not None else zero for x in (f[key], r[key])]
            # Micro-batches add up in the same order on both sides, so the bits agree for one of them; for more, the sum of
            # losses is accumulated the other way round: float32, four terms.
            rtol, atol = (0, 0) if len(seeds) == 1 else (1e-5, 1e-6)
            torch.testing.assert_close(p.grad, elementwise(name, *mine, 0.5, 2.0), rtol=rtol, atol=atol)


def test_order_of_blocks_does_not_matter(model):
    def run(order):
        twin = copy.deepcopy(model)
        step = rf.TwoTaskStep(twin, "pcgrad")
        for task in order:
            with getattr(step, task)():
                twin(data(3), task).backward()
        step.combine()
        return [p.grad for p in twin.parameters()]

    first, second = run(["forget", "retain"]), run(["retain", "forget"])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_between_blocks_no_gradient_is_visible(model):
    step = rf.TwoTaskStep(model, "sago")
    with step.forget():
        model(data(1), "forget").backward()
        assert model.trunk.weight.grad is not None
    assert all(p.grad is None for p in model.parameters())


def test_the_update_lies_in_the_retain_gradients_memory(model):
    step = rf.TwoTaskStep(model, "sago")
    with step.forget():
        model(data(1), "forget").backward()
    with step.retain():
        model(data(2), "retain").backward()
        address = model.trunk.weight.grad.data_ptr()
    step.combine()
    assert model.trunk.weight.grad.data_ptr() == address


def test_training_goes_on_step_after_step(model):
    step = rf.TwoTaskStep(model, "pcgrad", scope="module")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    first = model(data(11), "retain").item()
    for _ in range(30):
        collect(step, model)
        geometry = step.combine()
        optimizer.step()
        optimizer.zero_grad()
    assert model(data(11), "retain").item() < first
    assert set(geometry.per_group()) == {"trunk", "forget_head", "retain_head"}


def test_tied_weights_count_once():
    model = tiny.tiny_llama(tied=True)
    f, r = tiny.tiny_batch(seed=1), tiny.tiny_batch(seed=2)
    grads = [alone(model, [lambda m, b=b: m(**b).loss]) for b in (f, r)]
    step = rf.TwoTaskStep(model, "sago")
    with step.forget():
        model(**f).loss.backward()
    with step.retain():
        model(**r).loss.backward()
    step.combine()
    name = "model.embed_tokens.weight"
    expected = elementwise("sago", grads[0][name], grads[1][name], 1.0, 1.0)
    assert torch.equal(model.get_input_embeddings().weight.grad, expected)


@pytest.mark.parametrize("given", ["parameters", "named", "tied twice"])
def test_parameters_instead_of_a_model(model, given):
    chosen = {
        "parameters": lambda: model.parameters(),
        "named": lambda: model.named_parameters(),
        "tied twice": lambda: [*model.parameters(), model.trunk.weight],
    }[given]
    step = rf.TwoTaskStep(chosen(), "sum")
    collect(step, model)
    geometry = step.combine()
    assert model.trunk.weight.grad is not None
    assert ("trunk.weight" in geometry.per_group()) == (given == "named")


def test_what_is_frozen_is_looked_up_at_each_step(model):
    step = rf.TwoTaskStep(model, "sum")
    collect(step, model)
    step.combine()
    model.zero_grad()
    model.trunk.weight.requires_grad_(False)
    collect(step, model)
    step.combine()
    assert model.trunk.weight.grad is None
    assert model.trunk.bias.grad is not None


def test_what_the_optimiser_does_not_train_has_no_say_and_is_added(model):
    f = alone(model, [lambda m: -m(data(1), "forget")])
    r = alone(model, [lambda m: m(data(11), "retain")])
    trained = ["trunk.weight", "retain_head.weight"]
    parameters = dict(model.named_parameters())
    rule = rf.PCGrad(alpha=0.5, gamma=2.0, scope="global")
    step = rf.TwoTaskStep(model, rule, trained=[parameters[name] for name in trained])
    collect(step, model)
    geometry = step.combine()
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    f, r = ({name: zeros[name] if x is None else x for name, x in task.items()} for task in (f, r))
    alone_update = rf.combine({name: f[name] for name in trained}, {name: r[name] for name in trained}, rule)
    assert geometry.norm_retain == pytest.approx(
        sum(float(r[name].square().sum()) for name in trained) ** 0.5, rel=1e-6
    )
    for name in trained:
        assert torch.equal(parameters[name].grad, alone_update[name])
    for name in ("trunk.bias", "forget_head.weight"):
        assert torch.equal(parameters[name].grad, 0.5 * r[name] + 2.0 * f[name])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_update(reentrant):
    updates = []
    for checkpointing in (False, True):
        model = tiny.tiny_llama().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        step = rf.TwoTaskStep(model, "sago")
        for task, seed in (("forget", 1), ("retain", 2)):
            with getattr(step, task)():
                model(**tiny.tiny_batch(seed=seed)).loss.backward()
        step.combine()
        updates.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*updates, strict=True))


def test_autocast():
    model = tiny.tiny_llama()
    step = rf.TwoTaskStep(model, "sago")
    grads = {}
    for task, seed in (("forget", 1), ("retain", 2)):

        def loss(m, seed=seed):
            with torch.autocast("cpu", torch.bfloat16):
                return m(**tiny.tiny_batch(seed=seed)).loss

        grads[task] = alone(model, [loss])
        with getattr(step, task)():
            loss(model).backward()
    step.combine()
    for name, p in model.named_parameters():
        assert p.grad.dtype == torch.float32
        assert torch.equal(p.grad, elementwise("sago", grads["forget"][name], grads["retain"][name], 1.0, 1.0))


def test_a_stale_gradient_is_refused_and_named(model):
    step = rf.TwoTaskStep(model, "sago")
    model(data(1), "forget").backward()
    with pytest.raises(rf.StaleGradient, match="trunk.weight"), step.forget():
        pass
    model.zero_grad(set_to_none=False)
    with pytest.raises(rf.StaleGradient, match="set_to_none"), step.forget():
        pass
    model.zero_grad()
    collect(step, model)
    step.combine()
    with pytest.raises(rf.StaleGradient, match="trunk.weight"):  # the optimiser's zero_grad was forgotten
        collect(step, model)


def test_a_backward_outside_the_blocks_is_refused(model):
    step = rf.TwoTaskStep(model, "sago")
    collect(step, model)
    model(data(1), "forget").backward()
    with pytest.raises(rf.StaleGradient, match="trunk.weight"):
        step.combine()


def test_gradients_cleared_inside_a_block_are_noticed(model):
    step = rf.TwoTaskStep(model, "sago")
    collect(step, model)
    with pytest.raises(rf.StaleGradient, match="cleared inside"), step.forget():
        model.zero_grad()


def test_gradients_cleared_between_two_backward_passes_of_a_block_are_noticed(model):
    step = rf.TwoTaskStep(model, "sago")
    collect(step, model)

    def clear_and_go_on():
        with step.forget():
            model.zero_grad()
            model(data(2), "forget").backward()

    with pytest.raises(rf.StaleGradient, match="cleared inside"):
        clear_and_go_on()


def test_a_dtype_that_changes_within_a_step_is_refused():
    model = nn.Linear(2, 2)
    step = rf.TwoTaskStep(model, "sago")
    with step.forget():
        model(torch.ones(1, 2)).sum().backward()
    model.double()
    with step.retain():
        model(torch.ones(1, 2).double()).sum().backward()
    with pytest.raises(rf.DtypeMismatch, match="weight: forget is torch.float32"):
        step.combine()


@pytest.mark.parametrize("task", ["forget", "retain"])
def test_combine_needs_both_tasks(model, task):
    step = rf.TwoTaskStep(model, "sago")
    with pytest.raises(rf.RetainFirstError, match="no forget gradient"):
        step.combine()
    with getattr(step, task)():
        model(data(1), task).backward()
    with pytest.raises(rf.RetainFirstError, match="no (forget|retain) gradient"):
        step.combine()


def test_blocks_do_not_nest(model):
    step = rf.TwoTaskStep(model, "sago")
    with pytest.raises(rf.RetainFirstError, match=r"retain\(\) inside"), step.forget(), step.retain():
        pass
    with pytest.raises(rf.RetainFirstError, match=r"combine\(\) inside"), step.forget():
        step.combine()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("task", ["forget", "retain"])
def test_an_exception_leaves_the_model_usable(model, task, error):
    twin = copy.deepcopy(model)
    step = rf.TwoTaskStep(model, "sago")
    collect(step, model, seeds=(5,))

    def fail():
        with getattr(step, task)():
            model(data(6), task).backward()
            raise error

    with pytest.raises(error):
        fail()
    assert all(p.grad is None for p in model.parameters())
    collect(step, model)
    step.combine()
    fresh = rf.TwoTaskStep(twin, "sago")
    collect(fresh, twin)
    fresh.combine()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.grad is q.grad is None or torch.equal(p.grad, q.grad)


def test_check_finite_names_parameter_and_task(model):
    step = rf.TwoTaskStep(model, "sago", check_finite=True)
    with step.forget():
        model(data(1), "forget").backward()
    with step.retain():
        (model(data(1), "retain") * float("nan")).backward()
    with pytest.raises(rf.NonFiniteGradient, match="trunk.weight: the retain gradient"):
        step.combine()
    assert all(p.grad is None for p in model.parameters())
    collect(step, model)
    step.combine()


def test_without_the_check_a_broken_gradient_reaches_the_loss_scaler(model):
    step = rf.TwoTaskStep(model, "sago")
    with step.forget():
        model(data(1), "forget").backward()
    with step.retain():
        (model(data(1), "retain") * float("inf")).backward()
    step.combine()
    assert not model.trunk.weight.grad.isfinite().all()


def test_sparse_gradients_are_refused_by_name():
    model = nn.Embedding(5, 2, sparse=True)
    step = rf.TwoTaskStep(model, "sum")
    for block in (step.forget, step.retain):
        with block():
            model(torch.tensor([1])).sum().backward()
    with pytest.raises(rf.RetainFirstError, match=r"weight: .*sparse"):
        step.combine()


def test_nothing_to_train():
    with pytest.raises(rf.RetainFirstError, match="no parameter requires"):
        rf.TwoTaskStep(nn.Linear(1, 1).requires_grad_(False), "sum")
    for wrong in (["weight"], [(1, 2, 3)]):
        with pytest.raises(rf.RetainFirstError, match="is not a parameter"):
            rf.TwoTaskStep(wrong, "sum")
    with pytest.raises(rf.RetainFirstError, match="neither a model"):
        rf.TwoTaskStep(None, "sum")
    two = [*nn.Linear(1, 1).named_parameters(), *nn.Linear(1, 1).named_parameters()]
    with pytest.raises(rf.RetainFirstError, match="named 'weight'"):
        rf.TwoTaskStep(two, "sum")


@pytest.mark.parametrize("combiner", ["sago", rf.PCGrad()])
@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"gamma": Linear(1.0, -1.0, 10)}, r"gamma must be a finite number at least 0, not -1\.0, as Linear"),
        ({"alpha": Linear(1.0, 0.0, 10)}, r"alpha must be a finite number above 0, not 0\.0, as Linear"),
        ({"alpha": lambda step: step}, r"alpha must be a finite number above 0, not 0"),
    ],
)
def test_a_schedule_that_leaves_the_range_is_refused_at_construction(combiner, weights, text):
    with pytest.raises(rf.RetainFirstError, match=text):
        rf.TwoTaskStep(torch.nn.Linear(2, 1), combiner, **weights)
