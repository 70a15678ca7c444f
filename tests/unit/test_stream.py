"""stream=True: the same update and geometry, with one gradient set alive; what it cannot do is refused."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn

import retainfirst as rf
import tiny

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
    waiting = [weakref.ref(step._gradients["forget"][f"{i}.weight"]) for i in range(4)]
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


def test_what_does_not_fit_a_stream_is_refused_and_leaves_nothing(model):
    with pytest.raises(rf.RetainFirstError, match="scope 'global' needs the whole gradient"):
        rf.TwoTaskStep(model, "pcgrad", scope="global", stream=True)
    step = rf.TwoTaskStep(model, "sago", stream=True)
    with pytest.raises(rf.RetainFirstError, match="after the forget passes"), step.retain():
        pass
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


def forget(step, model):
    with step.forget():
        (-model(rows(0), "forget")).backward()


def retain(step, model, passes=1):
    with step.retain():
        for _ in range(passes):
            model(rows(1), "retain").backward()
