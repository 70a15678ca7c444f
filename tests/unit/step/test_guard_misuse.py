"""The guard's errors name what is wrong, before a parameter has moved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retainfirst as rf
from guarded import flat, gradients, make_model, passes, values


class TestMisuse:
    """Errors name what is wrong, before a parameter has moved."""

    @pytest.fixture(autouse=True)
    def made(self):
        self.model = make_model()
        self.step = rf.TwoTaskStep(self.model, "pcgrad")
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def refused(self, text, call=None):
        before = flat(values(self.model))
        with pytest.raises(rf.RetainFirstError, match=text):
            (call or self.optimizer.step)()
        assert torch.equal(flat(values(self.model)), before)

    def guard(self, optimizer=None, **options):
        return self.step.guard(optimizer or self.optimizer, **options)

    def combine(self, seed=0):
        passes(self.model, self.step, seed)
        self.step.combine()

    def test_second_guard(self):
        self.guard()
        self.refused("this step has a guard already", self.guard)

    def test_no_optimizer(self):
        self.refused("is not a torch.optim.Optimizer", lambda: self.guard("adamw"))

    def test_lbfgs(self):
        self.refused("LBFGS moves", lambda: self.guard(torch.optim.LBFGS(self.model.parameters())))

    def test_every(self):
        for every in (-1, 1.5, True):
            self.refused("every must be a whole number", lambda every=every: self.guard(every=every))

    def test_enforce(self):
        self.refused("enforce must be True or False, not 'false'", lambda: self.guard(enforce="false"))

    def test_parameters_of_another_model(self):
        other = torch.optim.SGD(make_model().parameters(), 0.1)
        self.refused("does not hold 6 of the step's 6", lambda: self.guard(other))

    def test_some_of_the_parameters(self):
        some = torch.optim.SGD(self.model[0].parameters(), 0.1)
        self.refused("does not hold 4 of the step's 6 parameters, such as 2.weight", lambda: self.guard(some))

    def test_a_refused_guard_leaves_the_optimiser_free(self):
        some = torch.optim.SGD(self.model[0].parameters(), 0.1)
        self.refused("does not hold", lambda: self.guard(some))
        rf.TwoTaskStep(self.model[0], "sago").guard(some)

    def test_no_combine(self):
        self.guard()
        self.refused("without combine")
        self.combine()
        self.optimizer.step()
        self.refused("without combine")

    def test_closure(self):
        self.guard()
        self.combine()
        self.refused("closure", lambda: self.optimizer.step(lambda: torch.zeros(())))
        self.refused("closure", lambda: self.optimizer.step(closure=lambda: torch.zeros(())))

    def test_foreign_gradient(self):
        model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3)})
        step, optimizer = rf.TwoTaskStep(model, "sago"), torch.optim.SGD(model.parameters(), 0.1)
        step.guard(optimizer, enforce=True)
        for task in (step.forget, step.retain):
            with task():
                model["used"](torch.ones(2, 4)).square().mean().backward()
        step.combine()
        model["unused"](torch.ones(1, 4)).sum().backward()
        for _ in range(2):
            self.refused(r"unused.weight has a .grad that combine\(\) did not write", optimizer.step)

    def test_replaced_optimiser(self):
        self.guard()
        self.combine()
        torch.optim.SGD(self.model.parameters(), 0.1).step()
        self.model.zero_grad()
        self.refused("not by a whole step of the AdamW that the guard watches", self.combine)

    def test_a_second_combine_counts_if_nothing_has_moved(self):
        guard = self.guard()
        self.combine(0)
        self.optimizer.zero_grad()
        self.combine(1)
        _, retain = gradients(self.model, 1)
        before = flat(values(self.model))
        self.optimizer.step()
        d, r = flat(values(self.model)) - before, flat(retain)
        assert guard.geometry.cos_step_retain == pytest.approx(-(d @ r / d.norm() / r.norm()).item())

    def test_wrapped_later(self):
        self.guard()
        self.combine()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model[3] = nn.Linear(3, 3).double()
        self.refused("does not hold 2 of the step's 6 parameters, such as 3.weight", self.combine)
