"""DeepSpeed ZeRO 1, 2 and 3 on the CPU, each beside one process on all rows, in float32: the engine has nothing wider."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import deepspeed
import torch
from torch import distributed as dist

import cases
import retainfirst as rf
from adapted import make_adapted
from setting import CLIP, MICRO_BATCHES, RULES, STEPS, Data, distance, make_model, make_optimizer, on_one_process, rule

# A kernel for shared memory, which would be compiled at the first use; gloo does without it.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

STAGES = (1, 2, 3)
FOLDER = Path.cwd()  # a fresh one for each run, and the same for all processes


def make_engine(stage, make=make_model, **options):
    model = make(torch.float32)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "gradient_clipping": CLIP,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **options,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=make_optimizer(model), config=config)
    return engine


def whole(engine):
    """Every parameter, but those that no pass reaches: earlier ZeRO 3 may leave any number in their place."""
    parameters = dict(engine.module.named_parameters())
    with deepspeed.zero.GatheredParameters(list(parameters.values()), enabled=engine.zero_optimization_stage() == 3):
        return {
            name: p.detach().clone() for name, p in parameters.items() if "unused" not in name and "rare" not in name
        }


def guarded():
    engine = make_engine(2)
    rf.TwoTaskStep(engine).guard(engine.optimizer)


def steps(engine, step, data, interleaved=True, numbers=range(STEPS)):
    rank = dist.get_rank()
    orders = [(micro, task) for micro in range(MICRO_BATCHES) for task in ("forget", "retain")]
    if not interleaved:
        orders.sort(key=lambda pair: pair[1])
    for i in numbers:
        for micro, task in orders:
            with getattr(step, task)():
                engine.backward(data.loss(engine, i, micro, task, rank), scale_wrt_gas=False)
        yield step.combine()
        engine.step()


def train(stage, name, *, given="engine", interleaved=True, make=make_model, offload=None):
    data = Data(dist.get_world_size(), rare=None)
    expected, geometries = on_one_process(data, name, torch.float32, make=make)
    engine = make_engine(stage, make)
    step = rf.TwoTaskStep({"engine": engine, "module": engine.module}[given], rule(name), offload=offload)
    found = [geometry.all_reduce().as_dict() for geometry in steps(engine, step, data, interleaved)]
    # What no pass reaches counts as coordinates here, so the share of conflicting ones is another.
    keys = [key for key in found[0] if key != "conflict_fraction"]
    geometry = max(abs(a[key] - b[key]) for a, b in zip(found, geometries, strict=True) for key in keys)
    parameters = whole(engine)
    expected = {key: p for key, p in expected.named_parameters() if key in parameters}
    return {"error": distance(parameters, expected), "geometry": geometry}


def offloaded(stage, name):
    with cases.moving_on_the_cpu():
        return train(stage, name, offload="cpu")


def resumed(stage, name):
    """Two steps of four, from a checkpoint in a fresh engine, after the four without a break."""
    data = Data(dist.get_world_size(), rare=None)

    def advance(engine, numbers):
        for _ in steps(engine, rf.TwoTaskStep(engine, rule(name)), data, numbers=numbers):
            pass

    unbroken, first, second = (make_engine(stage) for _ in range(3))
    advance(unbroken, range(4))
    advance(first, range(2))
    first.save_checkpoint(str(FOLDER), tag=f"{stage} {name}")
    start = whole(second)
    second.load_checkpoint(str(FOLDER), tag=f"{stage} {name}")
    loaded = whole(second)
    advance(second, range(2, 4))
    mine, theirs = whole(second), whole(unbroken)
    return {
        "equal": all(torch.equal(mine[key], p) for key, p in theirs.items()),
        "moved": any(not torch.equal(loaded[key], p) for key, p in start.items()),
    }


def bf16(stage):
    """No equality here: that it trains, and that the processes agree."""
    engine = make_engine(stage, bf16={"enabled": True})
    before = whole(engine)
    step = rf.TwoTaskStep(engine, "pcgrad")
    geometries = [g.all_reduce() for g in steps(engine, step, Data(dist.get_world_size(), rare=None))]
    after = whole(engine)
    changed = all(not torch.equal(before[name], after[name]) for name in after if "frozen" not in name)
    return {
        "changed": changed,
        "sum": sum(p.sum().item() for p in after.values()),
        "cosine": geometries[0].cos_update_retain,
    }


def read_alone():
    engine = make_engine(2)
    for geometry in steps(engine, rf.TwoTaskStep(engine, "sago"), Data(dist.get_world_size(), rare=None)):
        _ = geometry.norm_update


CASES = {
    **{f"equal, stage {stage}, {name}": partial(train, stage, name) for stage in STAGES for name in RULES},
    **{
        f"equal, stage {stage}, one task after the other": partial(train, stage, "sago", interleaved=False)
        for stage in STAGES
    },
    **{f"equal, stage {stage}, given the module": partial(train, stage, "sago", given="module") for stage in STAGES},
    **{f"equal, stage {stage}, offloaded": partial(offloaded, stage, "pcgrad global") for stage in STAGES},
    **{
        f"equal, stage {stage}, adapters{', checkpointing' * checkpointing}": partial(
            train, stage, "pcgrad module", make=partial(make_adapted, checkpointing=checkpointing)
        )
        for stage, checkpointing in ((2, False), (3, False), (3, True))
    },
    **{
        f"resumed, stage {stage}, {name}": partial(resumed, stage, name)
        for stage in STAGES
        for name in ("sago", "pcgrad global")
    },
    **{f"bf16, stage {stage}": partial(bf16, stage) for stage in (2, 3)},
    "refused, stage 0": lambda: cases.refusal(lambda: rf.TwoTaskStep(make_engine(0))),
    "refused, offloading": lambda: cases.refusal(
        lambda: rf.TwoTaskStep(make_engine(2, zero_optimization={"stage": 2, "offload_optimizer": {"device": "cpu"}}))
    ),
    "refused, guard": lambda: cases.refusal(guarded),
    "refused, geometry of one process": lambda: cases.refusal(read_alone),
}

if __name__ == "__main__":
    cases.main(CASES)
