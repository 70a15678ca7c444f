"""The steps of a run on real gradients are those of its combiner and its optimiser."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import retainfirst as rf
from retainfirst_lab.real_gradients import FORGET_WEIGHT, facts_gradients, facts_steps
from retainfirst_lab.tasks import facts

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # it trains a model


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_facts(cache, monkeypatch):
    """A smaller facts model in place of the built-in one, which a fresh machine would train for a minute."""
    monkeypatch.setenv("RETAINFIRST_CACHE", str(cache))
    small = facts.FactsConfig(seed=3, forget_people=2, retain_people=3, hidden_size=32)
    for name in ("load", "cached_folder", "facts_data"):
        call = getattr(facts, name)
        monkeypatch.setattr(facts, name, lambda *_, call=call, **__: call(small))


def test_steps(small_facts):
    combiner = rf.PCGrad(gamma=2.0, scope="global")
    steps = list(facts_steps(3, 1, combiner, partial(torch.optim.SGD, lr=0.5)))
    for one, following in zip(steps, [*steps[1:], None], strict=True):
        forget, retain = ({name: pair[task] for name, pair in one.gradients.items()} for task in (0, 1))
        update = rf.combine(forget, retain, combiner)
        norm = torch.cat([part.reshape(-1) for part in one.update.values()]).norm()
        assert 0 <= one.forget_accuracy <= 1
        for name, before in one.before.items():
            assert torch.equal(one.update[name], update[name])
            clipped = update[name] / max(1.0, norm.item())
            torch.testing.assert_close(one.after[name], before - 0.5 * clipped, atol=1e-6, rtol=1e-5)
            assert following is None or torch.equal(following.before[name], one.after[name])


def test_gradients_are_those_of_sago_with_adamw(small_facts):
    gradients = list(facts_gradients(2, 1))
    steps = list(facts_steps(2, 1, rf.SAGO(gamma=FORGET_WEIGHT), partial(torch.optim.AdamW, lr=3e-4)))
    for one, found in zip(steps, gradients, strict=True):
        assert all(torch.equal(*pair) for name in found for pair in zip(found[name], one.gradients[name], strict=True))
