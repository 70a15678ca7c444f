"""The transformers trainer and the plugin's, on several processes, beside one process that accumulates over the same rows."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import peft
import torch
from torch import distributed as dist
from transformers import TrainingArguments

import cases
import framework_stand_in as framework
import tiny
from pairs import InOrder, make_pairs
from retainfirst.data import PairedCollator
from retainfirst.hf import TwoTaskTrainer
from retainfirst_open_unlearning.trainers import make_trainer

FOLDER = Path.cwd()  # a fresh one for each run


def arguments(**options):
    defaults = {
        "learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "constant", "per_device_train_batch_size": 1,
        "max_grad_norm": 0.5, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "ddp_find_unused_parameters": False,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(FOLDER / "out"), **{**defaults, **options})


def train(
    rows=8, combiner="sago", dtype=torch.float64, resume=None, kind=InOrder, adapt=lambda model: model, **options
):
    trainer = kind(
        model=adapt(tiny.tiny_llama(dtype=dtype)), args=arguments(**options), train_dataset=make_pairs(rows),
        data_collator=PairedCollator(0), objective="ga", combiner=combiner,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def with_adapters(model, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, **options)
        return peft.get_peft_model(model, config).double()


def report(trainer, parameters=True):
    keys = ("loss", "forget_loss", "retain_loss", "grad_norm", "cos_update_retain", "norm_update")
    logs = [{key: entry[key] for key in keys} for entry in trainer.state.log_history if "forget_loss" in entry]
    whole = torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()]) if parameters else torch.empty(0)
    return {"parameters": whole.tolist(), "logs": logs}


def case(accumulate=1, **options):
    """The rows of a step are the same for any number of processes: one process accumulates over more micro-batches."""
    accumulate *= 2 // dist.get_world_size()
    return report(train(gradient_accumulation_steps=accumulate, **options))


def resumed(gathered=lambda parameters: nullcontext(), **options):
    """Two steps of four, from a checkpoint, after the four without a break."""
    options |= {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
    }
    whole, again = (
        train(kind=TwoTaskTrainer, resume=resume, **options) for resume in (None, str(FOLDER / "out/checkpoint-2"))
    )
    mine, theirs = list(again.model.parameters()), list(whole.model.parameters())
    with gathered(mine), gathered(theirs):
        equal = all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))
    return {"equal": equal, "step": again.state.global_step}


def plugin(name, adapt=lambda model: model):
    """A trainer of the framework, which hands the wrapped model on to its own loss functions."""
    kind = make_trainer(f"RetainFirst{name}", {name: vars(framework)[name]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trainer = kind(
            model=adapt(tiny.tiny_llama(dtype=torch.float64)), train_dataset=make_pairs(8), data_collator=PairedCollator(0),
            combiner="sago", args=arguments(max_steps=2, gradient_accumulation_steps=4 // dist.get_world_size()),
        )  # fmt: skip
        trainer.train()
    return report(trainer)


CASES = {
    "sago": partial(case, max_steps=3),
    "pcgrad": partial(case, max_steps=3, combiner="pcgrad"),
    "accumulation": partial(case, accumulate=2, max_steps=2),
    "an epoch that ends within a window": partial(case, accumulate=2, rows=12, num_train_epochs=2),
    "adapters": partial(case, max_steps=2, adapt=partial(with_adapters, init_lora_weights=False)),
    "checkpointing": partial(case, max_steps=2, gradient_checkpointing=True),
    "plugin, GradDiff": partial(plugin, "GradDiff"),
    "plugin, Referenced": partial(plugin, "Referenced"),
    "plugin, Referenced by its adapters": partial(plugin, "Referenced", adapt=with_adapters),
}

if __name__ == "__main__":
    cases.main({**CASES, "resumed": resumed})
