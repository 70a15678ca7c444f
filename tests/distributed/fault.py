"""One process that fails at a given place, beside one that goes on."""

from __future__ import annotations

import sys
from datetime import timedelta

from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import retainfirst as rf
from retainfirst.engines import _ddp
from setting import Data, make_model


def main(place: str) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    rank, data = dist.get_rank(), Data(2)
    model = DistributedDataParallel(make_model())
    step = rf.TwoTaskStep(model, "pcgrad")
    if place == "averaging" and rank == 1:
        _ddp._buckets = fail
    for task in ("forget", "retain"):
        with getattr(step, task)():
            data.loss(model, 0, 0, task, rank).backward()
            if place == task and rank == 1:
                fail()
    step.combine()
    print("combined")


def fail(*_: object) -> None:
    raise RuntimeError("the cause")


if __name__ == "__main__":
    main(sys.argv[2])
