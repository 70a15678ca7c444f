"""What the tests of the guard share: a small model, its passes, and its parameters as one vector."""

from __future__ import annotations

import copy

import torch
from torch import nn

import retainfirst as rf


def make_model(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Linear(3, 3)).to(dtype)


def passes(model, step, seed, microbatches=1):
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    forget, retain = (
        torch.randn(microbatches, 5, 4, generator=generator, device="cpu").to(like.device, like.dtype) for _ in range(2)
    )
    for f, r in zip(forget, retain, strict=True):
        with step.forget():
            (-model(f).square().mean()).backward()
        with step.retain():
            (model(r) - r[:, :3]).square().mean().backward()


def gradients(model, seed):
    """The two gradients of :func:`passes` with one microbatch, by plain autograd."""
    found, step = [], rf.TwoTaskStep(copy.deepcopy(model), "sum")
    for task in ("_forget", "_retain"):
        passes(step._source, step, seed)
        found.append({name: g.clone() for name, g in getattr(step, task).gradients.items()})
        step.reset()
    return found


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def flat(tensors):
    return torch.cat([x.double().reshape(-1) for x in tensors.values()])
