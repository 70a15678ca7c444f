"""Training that stops at a checkpoint and goes on in fresh objects, beside the same without a break."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import cases
import retainfirst as rf
from setting import MICRO_BATCHES, Data, make_model, make_optimizer, rule
from wraps import WRAPS, FSDPModule, whole

FOLDER = Path.cwd()  # a fresh one for each run, and the same for all processes


def begin(wrap):
    inner = make_model()
    # Without a gradient an optimiser has no state, and torch's functions for checkpoints take that for a missing one.
    for never_reached in (inner.rare, inner.unused):
        never_reached.requires_grad_(False)
    model = WRAPS[wrap](inner)
    return model, make_optimizer(model)


def advance(model, optimizer, name, steps):
    rank, data, step = dist.get_rank(), Data(dist.get_world_size(), rare=None), rf.TwoTaskStep(model, rule(name))
    for i in steps:
        for micro in range(MICRO_BATCHES):
            for task in ("forget", "retain"):
                with getattr(step, task)():
                    data.loss(model, i, micro, task, rank).backward()
        step.combine()
        optimizer.step()
        optimizer.zero_grad()


def save(model, optimizer, place):
    if isinstance(model, FSDPModule):
        parameters, moments = get_state_dict(model, optimizer)
        dcp.save({"model": parameters, "optimizer": moments}, checkpoint_id=place)
    else:
        # Each process its own part of the optimiser: FullyShardedDataParallel.optim_state_dict, which would put the parts
        # together, gives wrong first moments on a CPU, without retainfirst too (torch 2.15).
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(saved, f"{place} {dist.get_rank()}")


def load(model, optimizer, place):
    if isinstance(model, FSDPModule):
        parameters, moments = get_state_dict(model, optimizer)
        saved = {"model": parameters, "optimizer": moments}
        dcp.load(saved, checkpoint_id=place)
        set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
    else:
        saved = torch.load(f"{place} {dist.get_rank()}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])


def resumed(wrap, name, *, only_model=False):
    unbroken, optimizer = begin(wrap)
    advance(unbroken, optimizer, name, range(4))
    place = FOLDER / f"{wrap} {name} {only_model}"
    model, optimizer = begin(wrap)
    advance(model, optimizer, name, range(2))
    save(model, optimizer, place)
    model, optimizer = begin(wrap)
    load(model, make_optimizer(model) if only_model else optimizer, place)
    advance(model, optimizer, name, range(2, 4))
    mine, theirs = whole(model), whole(unbroken)
    return {"equal": all(torch.equal(mine[key], theirs[key]) for key in theirs)}


CASES = {
    **{f"{wrap}, {name}": partial(resumed, wrap, name) for wrap in WRAPS for name in ("sago", "pcgrad global")},
    **{f"wrong, {wrap}, a new optimiser": partial(resumed, wrap, "sago", only_model=True) for wrap in WRAPS},
}

if __name__ == "__main__":
    cases.main(CASES)
