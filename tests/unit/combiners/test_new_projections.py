"""NGDiff, GRU, A-GEM and Orthogonal beside their formulas, and GRU's moving average."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import retainfirst as rf
from oracle import DTYPES, assert_projection, gradients, projection
from retainfirst import kernels

NAMES = ("ngdiff", "gru", "agem", "orthogonal")


@pytest.mark.parametrize("backend", kernels.BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_update_is_the_formula(name, dtype, backend):
    for seed in range(4):
        f, r = gradients(2049, dtype, seed=seed, ratio=5.0)
        f = -f if (f.double() @ r.double() < 0) == (seed % 2) else f  # both signs of the dot product
        with kernels.use_backend(backend):
            assert_projection(name, rf.combine(f, r, name, alpha=0.3, gamma=0.7), f, r, 0.3, 0.7)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_scope_is_the_whole_model(name):
    f, r = [torch.tensor([1.0]), torch.tensor([-4.0])], [torch.tensor([2.0]), torch.tensor([3.0])]
    whole = rf.combine(torch.cat(f), torch.cat(r), name)
    torch.testing.assert_close(torch.cat(list(rf.combine(f, r, name))), whole, rtol=2**-22, atol=0)
    assert not torch.allclose(torch.cat(list(rf.combine(f, r, name, scope="tensor"))), whole)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_gradients(name, dtype):
    x, zero = torch.tensor([3.0, -4.0], dtype=dtype), torch.zeros(2, dtype=dtype)
    expected = {"ngdiff": x / 5}.get(name, x)
    torch.testing.assert_close(rf.combine(x, zero, name), expected, rtol=torch.finfo(dtype).eps, atol=0)
    kept = {"ngdiff": x / 5, "orthogonal": x}.get(name, zero)
    torch.testing.assert_close(rf.combine(zero, x, name), kept, rtol=torch.finfo(dtype).eps, atol=0)
    assert torch.equal(rf.combine(zero, zero, name), zero)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e150, 1e200])
def test_float64_gradients_of_extreme_size(name, scale):
    f, r = torch.tensor([-3.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = rf.combine(f * scale, r * scale, name) / (1.0 if name == "ngdiff" else scale)
    torch.testing.assert_close(found, projection(name, f, r, 1.0, 1.0), rtol=1e-14, atol=0)


class TestAverage:
    def make(self, **options):
        torch.manual_seed(0)
        model = nn.Linear(3, 2).double()
        return model, rf.TwoTaskStep(model, "gru", **options)

    def gradients(self, i):
        generator = torch.Generator().manual_seed(i)
        return [torch.randn(2, 3, dtype=torch.float64, generator=generator) for _ in range(2)]

    def take(self, model, step, i):
        f, r = self.gradients(i)
        with step.forget():
            (model.weight * f).sum().backward()
        with step.retain():
            (model.weight * r).sum().backward()
        geometry = step.combine()
        update = model.weight.grad
        model.zero_grad()
        return update, geometry

    def test_the_average_stands_for_the_retain_gradient(self):
        model, step = self.make(average=0.75, gamma=0.5)
        average = None
        for i in range(5):
            f, r = self.gradients(i)
            average = r if average is None else 0.75 * average + 0.25 * r
            update, geometry = self.take(model, step, i)
            expected = projection("gru", f.flatten(), average.flatten(), 1.0, 0.5).view(2, 3)
            # Sums of six terms of order one in float64.
            torch.testing.assert_close(update, expected, rtol=0, atol=1e-14)
            assert geometry.norm_retain == pytest.approx(average.norm().item(), rel=1e-14)

    def test_without_an_average_nothing_is_kept(self):
        _, step = self.make()
        assert step.state_dict() == {"steps": 0}

    def test_a_checkpoint_goes_on_to_the_bit(self):
        model, step = self.make(average=0.9)
        for i in range(3):
            self.take(model, step, i)
        state = copy.deepcopy(step.state_dict())
        expected, _ = self.take(model, step, 3)
        other_model, other = self.make(average=0.9)
        other.load_state_dict(state)
        assert torch.equal(self.take(other_model, other, 3)[0], expected)
        with pytest.raises(rf.RetainFirstError, match="has no moving average, unlike the state"):
            self.make()[1].load_state_dict(state)
        with pytest.raises(rf.RetainFirstError, match="has moving average"):
            other.load_state_dict({"steps": 1})

    def test_streaming_gives_the_same(self):
        (model, step), (other_model, other) = (
            self.make(average=0.5, scope="tensor"),
            self.make(average=0.5, scope="tensor", stream=True),
        )
        for i in range(3):
            assert torch.equal(self.take(model, step, i)[0], self.take(other_model, other, i)[0])

    def test_other_weights_keep_the_average(self):
        model, step = self.make(average=0.5)
        self.take(model, step, 0)
        step.combiner = step.combiner.with_weights(gamma=2.0)
        assert step.state_dict()["retain_average"]

    def test_combine_refuses_it(self):
        for call in (
            lambda c: rf.combine(torch.ones(1), torch.ones(1), c),
            lambda c: c.combine_([torch.ones(1)], [torch.ones(1)]),
        ):
            with pytest.raises(
                rf.RetainFirstError, match="gru: average=0.5 needs the retain gradients of earlier steps"
            ):
                call(rf.GRU(average=0.5))

    @pytest.mark.parametrize("average", [1.0, -0.1, "a", float("nan"), True])
    def test_out_of_range(self, average):
        with pytest.raises(rf.RetainFirstError, match="GRU: average must be a number from 0 to below 1"):
            rf.GRU(average=average)
