"""StopAtForget on one process and on two, and the measure of a sharded model."""

from __future__ import annotations

import json

import torch
from torch import distributed as dist

import cases
import tiny
from hf_cases import FOLDER, InOrder, arguments
from pairs import make_pairs
from retainfirst.data import PairedCollator
from retainfirst.evaluation import AnswerProbability, answer_probability
from retainfirst.hf import StopAtForget
from wraps import fully_shard

ROWS, TARGET = 5, 0.93  # an odd number of rows for two processes; the target in parts of the probability at the start


def train(callback):
    trainer = InOrder(
        model=tiny.tiny_llama(dtype=torch.float64), train_dataset=make_pairs(16), data_collator=PairedCollator(0), objective="ga",
        args=arguments(max_steps=6, learning_rate=0.2, gradient_accumulation_steps=2 // dist.get_world_size()),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    return trainer


def stopped():
    measure = AnswerProbability(make_pairs(16), 0, rows=ROWS, batch_size=2, across_processes=True)
    at_most = TARGET * measure.forget(tiny.tiny_llama(dtype=torch.float64))
    trainer = train(StopAtForget(measure, at_most, 1, patience=1, keep_best=True))
    dist.barrier()  # the first process writes the record after the last common step
    record = json.loads((FOLDER / "out/stop_at_forget.json").read_text())
    saved = [path.name for path in (FOLDER / "out").glob("checkpoint-*")]
    parameters = torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])
    history = [entry for entry in trainer.state.log_history if "forget_measure" in entry]
    return {
        "at_most": at_most, "step": trainer.state.global_step, "record": record, "saved": saved, "history": history,
        "parameters": parameters.tolist(),
    }  # fmt: skip


class OfOneProcess:
    """Reaches the target at a step that differs between the processes."""

    name = "scripted"

    def __init__(self):
        self.numbers = iter([0.5] * (2 + dist.get_rank()) + [0.1] * 6)

    def forget(self, model):
        return next(self.numbers)

    retain = forget


def disagreeing():
    return {"step": train(StopAtForget(OfOneProcess(), 0.2, 1)).state.global_step}


def sharded():
    model = fully_shard(tiny.tiny_llama()) if dist.get_world_size() > 1 else tiny.tiny_llama()
    rows = make_pairs(16).forget
    return {
        str(count): answer_probability(model, rows, 0, rows=count, batch_size=2, across_processes=True)
        for count in (1, 5, 16)
    }


CASES = {"stopped": stopped, "disagreeing": disagreeing, "sharded": sharded}

if __name__ == "__main__":
    cases.main(CASES)
