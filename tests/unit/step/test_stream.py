"""stream=True: the same update and geometry, with one gradient set alive; what it cannot do is refused."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn

import retainfirst as rf
import tiny
from retainfirst import kernels

RULES = {
    "sum": {"alpha": 0.5},
    "sago": {"gamma": 2.0},
    "sago_keep_retain": {},
    "pcgrad": {"scope": "tensor"},
    "pcgrad module": {"scope": "module"},
    "pcgrad block": {"scope": "block", "round_toward_retain": True},
    "blur": {"scope": "block"},
}


class TwoHeads(nn.Module):
    """A tied weight, a frozen layer, a head for each task and one that nothing reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight
        self.forget_head, self.retain_head, self.unused = (nn.Linear(4, 1) for _ in range(3))

    def forward(self, rows, task):
        hidden = self.embedding(rows)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        hidden = self.frozen(hidden)
        extra = getattr(self, f"{task}_head")(hidden).square().mean()
        return nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), rows.roll(-1, 1).flatten()) + extra


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TwoHeads().double()


def rows(seed):
    return torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(seed))


def combined(model, name, *, micro_batches=1, trained=None, **options):
    twin = copy.deepcopy(model)
    chosen = None if trained is None else [p for key, p in twin.named_parameters() if key in trained]
    step = rf.TwoTaskStep(twin, name.split()[0], trained=chosen, **RULES[name], **options)
    for micro in range(micro_batches):
        with step.forget():
            (-twin(rows(micro), "forget")).backward()
    with step.retain():
        twin(rows(10), "retain").backward()
    geometry = step.combine()
    return {key: p.grad for key, p in twin.named_parameters()}, geometry


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("name", RULES)
def test_streaming_changes_no_bit(model, name, micro_batches):
    plain, geometry = combined(model, name, micro_batches=micro_batches)
    streamed, other = combined(model, name, micro_batches=micro_batches, stream=True)
    for key, expected in plain.items():
        assert (expected is None) == (streamed[key] is None), key
        assert expected is None or torch.equal(streamed[key], expected), key
    # The same sums in another order: float64, about a hundred terms.
    assert other.as_dict() == pytest.approx(geometry.as_dict(), rel=1e-12)
    mine, theirs = ({key: g.as_dict() for key, g in one.per_group().items()} for one in (other, geometry))
    assert mine == {key: pytest.approx(value, nan_ok=True) for key, value in theirs.items()}


def test_what_the_optimiser_leaves_out_has_no_say(model):
    trained = {"layers.0.weight", "layers.2.bias", "retain_head.weight"}
    for name in ("sago", "pcgrad module"):
        plain, geometry = combined(model, name, trained=trained)
        streamed, other = combined(model, name, trained=trained, stream=True)
        assert all(torch.equal(streamed[key], value) for key, value in plain.items() if value is not None)
        assert other.as_dict() == pytest.approx(geometry.as_dict(), rel=1e-12)


def test_a_forget_gradient_is_freed_as_soon_as_it_is_used():
    """When the backward pass reaches the first layer, the forget gradients of the later ones are gone."""
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(4)))
    step = rf.TwoTaskStep(model, "sago", stream=True)
    with step.forget():
        (-model(torch.ones(1, 3)).sum()).backward()
    waiting = [weakref.ref(step._forget.gradients[f"{i}.weight"]) for i in range(4)]
    alive = []
    model[0].register_full_backward_pre_hook(lambda *_: alive.append([ref() is not None for ref in waiting]))
    with step.retain():
        model(torch.ones(1, 3, requires_grad=True)).square().sum().backward()
    step.combine()
    assert alive == [[True, False, False, False]]


def test_steps_follow_each_other(model):
    step = rf.TwoTaskStep(model, "sago", stream=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    twin = copy.deepcopy(model)
    other, twins = rf.TwoTaskStep(twin, "sago"), torch.optim.SGD(twin.parameters(), lr=0.1)
    for i in range(3):
        for net, one, optimiser in ((model, step, optimizer), (twin, other, twins)):
            with one.forget():
                (-net(rows(i), "forget")).backward()
            with one.retain():
                net(rows(i + 10), "retain").backward()
            one.combine()
            optimiser.step()
            optimiser.zero_grad()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_gradient_checkpointing_streams():
    llama = tiny.tiny_llama()
    tokens = torch.randint(llama.config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))

    def update(**options):
        twin = copy.deepcopy(llama).train()
        twin.gradient_checkpointing_enable({"use_reentrant": False})
        step = rf.TwoTaskStep(twin, "sago", **options)
        with step.forget():
            (-twin(input_ids=tokens, labels=tokens).loss).backward()
        with step.retain():
            twin(input_ids=tokens.flip(0), labels=tokens).loss.backward()
        step.combine()
        return [p.grad for p in twin.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(update(), update(stream=True), strict=True))


class Views(nn.Module):
    """Autograd hands some parameters a view of a gradient that goes on to others, and two of them the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = (nn.Parameter(torch.randn(4, 4)) for _ in range(3))
        self.delta, self.shift, self.other = (
            nn.Parameter(torch.randn(16)),
            *(nn.Parameter(torch.zeros(4)) for _ in "ab"),
        )

    def forward(self, rows, task):
        x = (rows[:1, :4].double() @ self.first) @ (self.left @ self.right + self.delta.view(4, 4))
        x = torch.sin(x + self.shift.unsqueeze(0) + self.other.unsqueeze(0))
        return x.square().mean() if task == "forget" else x.mean()


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("name", RULES)
def test_gradients_that_are_views_of_others_are_left_alone(name, backend):
    torch.manual_seed(0)
    model = Views().double()
    expected = []
    for task, row in (("forget", 0), ("retain", 10)):
        twin = copy.deepcopy(model)
        (twin(rows(row), task) * (-1 if task == "forget" else 1)).backward()
        expected.append({key: p.grad.clone() for key, p in twin.named_parameters()})
    options = dict(RULES[name])
    update = rf.combine(*expected, name.split()[0], **options)
    with kernels.use_backend(backend):
        for stream in (False, True):
            found, _ = combined(model, name, stream=stream)
            # Eager torch may round a projection's element another way.
            assert all(torch.allclose(found[key], u, rtol=1e-14, atol=1e-15) for key, u in update.items()), stream


def test_what_does_not_fit_a_stream_is_refused_and_leaves_nothing(model):
    for options, text in (
        ({"scope": "global", "stream": True}, "scope 'global' needs the whole gradient"),
        ({"stream": "yes"}, "stream must be True or False, not 'yes'"),
    ):
        with pytest.raises(rf.RetainFirstError, match=text):
            rf.TwoTaskStep(model, "pcgrad", **options)
    step = rf.TwoTaskStep(model, "sago", stream=True)
    for before in (lambda: None, lambda: empty(step)):
        before()
        with pytest.raises(rf.RetainFirstError, match="after the forget passes"), step.retain():
            pass
        forget(step, model)  # as if nothing had been
        step.reset()
    for act, text in (
        (lambda: retain(step, model, passes=2), "second backward pass reached it"),
        (lambda: (retain(step, model), retain(step, model)), "once a step"),
        (lambda: (retain(step, model), forget(step, model)), "before its retain pass"),
    ):
        step.reset()
        forget(step, model)
        with pytest.raises(rf.RetainFirstError, match=text):
            act()
    step.reset()
    assert all(p.grad is None for p in model.parameters())
    forget(step, model)
    retain(step, model)
    assert step.combine().cos_update_retain >= 0


def test_clearing_gradients_in_the_retain_block_is_noticed(model):
    step = rf.TwoTaskStep(model, "sago", stream=True)
    forget(step, model)
    block = step.retain()
    block.__enter__()
    model(rows(1), "retain").backward()
    model.zero_grad()
    with pytest.raises(rf.StaleGradient, match=r"was cleared or replaced"):
        block.__exit__(None, None, None)


def test_what_is_frozen_between_the_blocks_keeps_its_part(model):
    """As without streaming: the forget gradient is there already; and no hook is left behind."""
    updates = []
    for stream in (False, True):
        twin = copy.deepcopy(model)
        step = rf.TwoTaskStep(twin, "sago", stream=stream)
        forget(step, twin)
        twin.layers[2].weight.requires_grad_(False)
        retain(step, twin)
        step.combine()
        updates.append([p.grad for p in twin.parameters() if p.grad is not None])
        assert not any(p._post_accumulate_grad_hooks for p in twin.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*updates, strict=True))


def test_combine_without_a_retain_pass_says_so(model):
    step = rf.TwoTaskStep(model, "sago", stream=True)
    forget(step, model)
    with pytest.raises(rf.RetainFirstError, match="no retain gradient"):
        step.combine()


def test_a_broken_gradient_is_named(model):
    step = rf.TwoTaskStep(model, "sago", stream=True, check_finite=True)
    forget(step, model)
    with step.retain():
        (model(rows(1), "retain") + model.layers[1].bias.sum() * torch.inf).backward()
    with pytest.raises(rf.NonFiniteGradient, match=r"layers\.1\.bias: the retain gradient"):
        step.combine()


def empty(step):
    with step.forget():
        pass


def forget(step, model):
    with step.forget():
        (-model(rows(0), "forget")).backward()


def retain(step, model, passes=1):
    with step.retain():
        for _ in range(passes):
            model(rows(1), "retain").backward()
