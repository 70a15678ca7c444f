"""Compares our trainers with the framework's own, inside the framework, in float64; writes a JSON file.

``python inside.py CHECKOUT WORKSPACE ANSWER QUESTION CASE...`` in the framework's environment. A question is a function of this
file, and a case its arguments, with colons between them. The answer has one entry for each case; if a case fails, its entry has
the traceback, and the others go on.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import traceback
from pathlib import Path
from unittest.mock import patch

import commands
import torch
import transformers
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from framework_stand_in import TwoDevices

HOME, WORKSPACE, ANSWER = (Path(argument) for argument in sys.argv[1:4])
sys.path.insert(0, str(HOME / "src"))
framework, data, models, utils = map(importlib.import_module, ("trainer", "data", "model", "trainer.utils"))

PLAIN = (
    "++trainer.args.weight_decay=0.01", "trainer.args.optim=sgd", "trainer.args.learning_rate=0.05",
    "trainer.args.num_train_epochs=2", "++trainer.args.max_steps=-1", "++trainer.args.lr_scheduler_type=constant_with_warmup",
)  # fmt: skip
SETTINGS = {
    "accumulated": ("trainer.args.gradient_accumulation_steps=3", "++trainer.args.max_grad_norm=0"),
    "plain": ("trainer.args.gradient_accumulation_steps=1", "++trainer.args.max_grad_norm=0"),
    "unweighted": (
        "trainer.args.gradient_accumulation_steps=1",
        "++trainer.args.max_grad_norm=0",
        "trainer.method_args.alpha=1.0",
        "trainer.method_args.gamma=1.0",
    ),
    # An epoch has six microbatches: one and a half accumulation windows here, and less than one below.
    "clipped": ("trainer.args.gradient_accumulation_steps=4", "++trainer.args.max_grad_norm=0.001"),
    "short": ("trainer.args.gradient_accumulation_steps=8", "++trainer.args.max_grad_norm=0.001"),
    "few": (
        r"trainer.method_args.trainable_params_regex=['model\.layers\.[01]\.mlp\.down_proj\.weight']",
        "trainer.args.gradient_accumulation_steps=4",
        "++trainer.args.max_grad_norm=0.001",
    ),
}


def build(name: str, output: str, *more: str):
    """Make a trainer as the framework's ``train.py`` does, with a model in float64."""
    # The authors' fork has no configs for TOFU, so the framework's are used.
    more = (*more, f"hydra.searchpath=[file://{os.environ['OPEN_UNLEARNING_HOME']}/configs]")
    with initialize_config_dir(str(HOME / "configs"), version_base=None):
        overrides = commands.overrides(name, WORKSPACE, WORKSPACE / output, transformers.__version__)
        config = compose("unlearn.yaml", [*overrides, *PLAIN, *more])
    utils.seed_everything(0)
    model, tokenizer = models.get_model(config.model)
    sets = data.get_data(config.data, mode="unlearn", tokenizer=tokenizer, template_args=config.model.template_args)
    called = "tokenizer" if "tokenizer" in inspect.signature(framework.load_trainer).parameters else "processing_class"
    trainer, _ = framework.load_trainer(
        config.trainer, model=model.double(), train_dataset=sets["train"], evaluators=None, eval_dataset="dummy",
        data_collator=data.get_collators(config.collator, tokenizer=tokenizer), template_args=None, **{called: tokenizer},
    )  # fmt: skip
    utils.seed_everything(0)
    return trainer


def largest(tensors) -> float:
    return max((float(x.abs().max()) for x in tensors if x is not None), default=0.0)


def apart(first, second) -> float:
    zero = torch.zeros(())
    return max(
        largest([(zero if a is None else a) - (zero if b is None else b)]) for a, b in zip(first, second, strict=True)
    )


def gradients(method: str, retain_loss: str) -> dict:
    """Compare our two gradients of a batch with those of the framework's ``compute_loss`` with one of its weights at 0."""
    more = (f"trainer.method_args.retain_loss_type={retain_loss}",)
    ours = build(f"RetainFirst{method}", "gradients", *more)
    batch = next(iter(ours.get_train_dataloader()))
    parameters = list(ours.model.train().parameters())
    # In a model that equals its reference, the KL gradient and the distance of RMU's activations are 0.
    changed = [
        0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype) for p in parameters
    ]
    found = {}
    for task, loss in zip(("forget", "retain"), ours.task_losses(), strict=True):
        move(parameters, changed)
        utils.seed_everything(1)  # RMU draws a vector at its first loss
        loss(ours.model, batch).backward()
        found[task] = take(parameters)
        move(parameters, [-x for x in changed])
    answer = {}
    for task, weights in (("forget", (1.0, 0.0)), ("retain", (0.0, 1.0))):
        own = build(method, "gradients", *more)
        own.gamma, own.alpha = weights
        parameters = list(own.model.train().parameters())
        move(parameters, changed)
        utils.seed_everything(1)
        own.compute_loss(own.model, batch).backward()
        theirs = take(parameters)
        answer[task] = {"difference": apart(found[task], theirs), "size": largest(theirs)}
    return answer


@torch.no_grad()
def move(parameters, by) -> None:
    for p, d in zip(parameters, by, strict=True):
        p += d


def take(parameters) -> list:
    found = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    return found


def sum_beside_own(method: str, setting: str) -> dict:
    """Train with the framework's trainer and with ours and ``combiner=sum``; return their distance, and that from the start."""
    own = build(method, "own", *SETTINGS[setting])
    start = [p.detach().clone() for p in own.model.parameters()]
    own.train()
    ours = build(f"RetainFirst{method}", "ours", "trainer.method_args.combiner=sum", *SETTINGS[setting])
    ours.train()
    theirs = list(own.model.parameters())
    return {
        "difference": apart(theirs, ours.model.parameters()), "moved": apart(theirs, start),
        "steps": [own.state.global_step, ours.state.global_step],
        # transformers 4.51 leaves the mean over microbatches to trainers of models that know num_items_in_batch.
        "undivided": getattr(own, "model_accepts_loss_kwargs", False) and not hasattr(own, "current_gradient_accumulation_steps"),
    }  # fmt: skip


def scheduled(method: str) -> dict:
    """Train with a gamma that falls to 0: ours by ``gamma=START:END:STEPS``, the framework's trainer by a callback."""
    more = (*SETTINGS["unweighted"], "++trainer.args.max_steps=6")
    own = build(method, "own", *more)
    start = [p.detach().clone() for p in own.model.parameters()]

    class Falling(transformers.TrainerCallback):
        def on_step_begin(self, args, state, *_, **__):
            own.gamma = 1 - min(state.global_step, 4) / 4

    own.add_callback(Falling())
    own.train()
    ours = build(
        f"RetainFirst{method}", "ours", "trainer.method_args.combiner=sum", *more, "trainer.method_args.gamma=1:0:4"
    )
    ours.train()
    theirs = list(own.model.parameters())
    return {
        "difference": apart(theirs, ours.model.parameters()), "moved": apart(theirs, start), "gamma": [own.gamma, ours.gamma],
    }  # fmt: skip


def only_some(method: str) -> dict:
    """Train with ``where`` and a combiner, with ``sum``, and with the combiner on all; return which parameters differ."""
    more = (*SETTINGS["unweighted"], "++trainer.args.max_steps=1")
    ends = {}
    for name, way in {
        "sum": ("trainer.method_args.combiner=sum",),
        "all": ("trainer.method_args.combiner=sago",),
        "some": ("trainer.method_args.combiner=sago", r"+trainer.method_args.where='layers\.1\.'"),
    }.items():
        trainer = build(f"RetainFirst{method}", name, *way, *more)
        trainer.train()
        ends[name] = {key: p.detach() for key, p in trainer.model.named_parameters()}
    different = lambda one, other: [key for key in one if not torch.equal(one[key], other[key])]  # noqa: E731
    return {
        "from_sum": different(ends["some"], ends["sum"]),
        "from_all": different(ends["some"], ends["all"]),
        "names": [*ends["sum"]],
    }


def on_two_gpus(method: str) -> dict:
    """Do the same with one process and two GPUs, which is DataParallel."""
    torch.nn.DataParallel, transformers.TrainingArguments.n_gpu = TwoDevices, 2
    return sum_beside_own(method, "plain")


def preferences(update: str) -> dict:
    """Return PDU's dual variable after each change, in the framework's trainer and in ours."""
    moves = {}
    for name, more in (("PDU", ()), ("RetainFirstPDU", ("trainer.method_args.combiner=sum",))):
        trainer = build(
            name, "preferences", f"trainer.method_args.dual_update_upon={update}", *SETTINGS["plain"], *more
        )
        trainer.train()
        moves[name] = [log["retain_preference"] for log in trainer.state.log_history if "retain_preference" in log]
    return moves


def resume(method: str) -> dict:
    """Train with ours without interruption, and once more from the checkpoint in the middle."""
    saving = ("++trainer.args.max_steps=6", "trainer.args.save_strategy=steps", "++trainer.args.save_steps=3",
              "trainer.args.save_only_model=false", "trainer.args.optim=adamw_torch")  # fmt: skip
    whole = build(f"RetainFirst{method}", "whole", *saving)
    whole.train()
    resumed = build(f"RetainFirst{method}", "whole", *saving)
    before = [p.detach().clone() for p in resumed.model.parameters()]
    resumed.train(resume_from_checkpoint=str(WORKSPACE / "whole" / "checkpoint-3"))
    ends = list(whole.model.parameters())
    return {
        "difference": apart(ends, resumed.model.parameters()),
        "moved": apart(ends, before),
        "step": resumed.state.global_step,
    }


AUTHORS = {
    "sago_prefer_retain": ("sago_keep_retain", None), "pcgrad": ("pcgrad", "tensor"), "pcgrad_global": ("pcgrad", "global"),
    "blur": ("blur", "global"),
}  # fmt: skip


def beside_authors(method: str, strategy: str) -> dict:
    """Train with the fork's trainer and with ours, in the authors' fork; return their distance, and that from the start."""
    combiner, scope = AUTHORS.get(strategy, (strategy, None))
    more = ("trainer.method_args.alpha=0.5", "trainer.method_args.gamma=2.0", "++trainer.args.max_grad_norm=0.5",
            "trainer.args.gradient_accumulation_steps=2")  # fmt: skip
    theirs = build(f"{method}WithSurgery", "theirs", f"trainer.method_args.surgery_strategy={strategy}", *more)
    start = [p.detach().clone() for p in theirs.model.parameters()]
    # The fork gives only the first model of a process a method that logs.
    theirs.model.report_metrics = lambda **_: None
    theirs.train()
    scopes = (f"trainer.method_args.scope={scope}",) if scope else ()
    ours = build(f"RetainFirst{method}", "ours", f"trainer.method_args.combiner={combiner}", *scopes, *more)
    ours.model.report_metrics = lambda **_: None
    ours.train()
    ends = list(theirs.model.parameters())
    return {"difference": apart(ends, ours.model.parameters()), "moved": apart(ends, start)}


def rows(side: str, rank: str) -> dict:
    """Return batches of pairs of texts by a collator that pads on a side, as a process of that rank draws them.

    The fork's handlers are asked for by the framework's names; in the framework itself these are ours.
    """
    text = WORKSPACE / "texts.txt"
    text.write_text(
        "".join(f"{index} {'is a number ' * (index % 5)}that ends<eos>, {index % 7}\n" for index in range(40))
    )
    prefix = "" if hasattr(data, "RWKUQADataset") else "RetainFirst"  # which only the fork has
    ours = os.environ["OPEN_UNLEARNING_HOME"]
    with initialize_config_dir(f"{ours}/configs", version_base=None):
        compose("unlearn.yaml", ["task_name=t"])  # registers the plugin's names
    tokenizer = models.get_tokenizer({"pretrained_model_name_or_path": str(WORKSPACE / "model")})
    tokenizer.pad_token = tokenizer.eos_token  # as the framework does for a tokenizer without one
    of_texts = {"path": "text", "data_files": str(text), "split": "train"}
    config = {"handler": f"{prefix}PretrainingDataset", "args": {"hf_args": of_texts, "max_length": 16}}
    collator = {"handler": f"{prefix}DataCollatorForSupervisedDataset", "args": {"padding_side": side}}
    parts = OmegaConf.create({"anchor": "forget", "forget": {"texts": config}, "retain": {"texts": config}})
    pairs = data.get_data(parts, mode="unlearn", tokenizer=tokenizer, template_args=None)["train"]
    collate = data.get_collators(OmegaConf.create({"one": collator}), tokenizer=tokenizer)
    utils.seed_everything(0)
    loader = torch.utils.data.DataLoader(pairs, batch_size=4, shuffle=True, collate_fn=collate)
    with (
        patch.object(torch.distributed, "is_initialized", lambda: True),
        patch.object(torch.distributed, "get_rank", lambda: int(rank)),
        patch.object(torch.distributed, "get_world_size", lambda: 4),
    ):
        batches = list(loader)
    as_lists = lambda batch: {key: part.tolist() for key, part in batch.items()}  # noqa: E731
    return {"batches": [{task: as_lists(batch) for task, batch in pair.items()} for pair in batches]}


def later(wanted: str) -> dict:
    """Train with a trainer that the framework does not have, registered as the framework registers its own."""
    from hydra.core.config_store import ConfigStore

    class Later(framework.GradDiff):
        pass

    class Odd(framework.GradDiff):
        def compute_loss(self, model, inputs, return_outputs=False):
            return -model(**inputs["forget"]).loss + model(**inputs["retain"]).loss

        compute_unlearn_loss = compute_loss

    for trainer in (Later, Odd):
        framework._register_trainer(trainer)
        node = {"defaults": ["GradDiff", "_self_"], "handler": trainer.__name__}
        ConfigStore.instance().store(trainer.__name__, node, "trainer")
    trainer = build(f"RetainFirst{wanted}", "later")
    trainer.train()
    return {"logs": trainer.state.log_history, "combiner": trainer.combiner.name}


if __name__ == "__main__":
    question, answers = globals()[sys.argv[4]], {}
    for case in sys.argv[5:]:
        try:
            answers[case] = question(*case.split(":"))
        except Exception:
            answers[case] = {"error": traceback.format_exc()}
    ANSWER.write_text(json.dumps(answers))
