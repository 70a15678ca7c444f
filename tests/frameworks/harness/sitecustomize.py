"""Python imports this at its start where the folder is in PYTHONPATH: records a run, and stands in for what a CPU lacks.

HARNESS_RECORD   write the microbatches, weights and gradients of the first optimiser step to this file
HARNESS_DTYPE    compute in this format (float32, float64) instead of bfloat16
HARNESS_DEVICES  torch.cuda.device_count() returns this number
HARNESS_FASTARGS add what the WMDP code bases need of fastargs, which is only in a fork of it
"""

import copy
import json
import os
from pathlib import Path


def pretend_devices(count):
    import torch

    torch.cuda.device_count = lambda: count


def compute_in(dtype):
    """Load models in that format, and train them without autocast."""
    import torch
    import transformers

    of_class = transformers.AutoModelForCausalLM
    load, own = of_class.from_pretrained.__func__, transformers.TrainingArguments.__post_init__

    def from_pretrained(cls, *arguments, **options):
        return load(cls, *arguments, **{**options, "torch_dtype": getattr(torch, dtype)})

    def post_init(self):
        self.bf16 = self.bf16_full_eval = False
        if isinstance(self.deepspeed, str):
            self.deepspeed = json.loads(Path(self.deepspeed).read_text())
            self.deepspeed["bf16"]["enabled"] = False
        own(self)

    of_class.from_pretrained = classmethod(from_pretrained)
    transformers.TrainingArguments.__post_init__ = post_init


def extend_fastargs():
    from fastargs import Config, validation

    class Given(validation.Anything):
        def __init__(self, *_):
            pass

    class BoolAsInt(validation.Checker):
        def check(self, value):
            return bool(int(value))

        def help(self):
            return "0, 1 or a boolean"

    def get_section(self, name):
        paths = self.sections_to_entries[tuple(name.split("."))]
        return {path[-1]: self[path] for path in paths}

    validation.Folder = validation.File = Given
    validation.BoolAsInt = BoolAsInt
    Config.get_section = get_section
    Config.get_all_config = lambda self: {".".join(path): self[path] for path in self.entries}


class Recorder:
    """Keeps what a trainer sees and hands to its optimiser until the first step is taken, then writes it."""

    def __init__(self, path):
        self.path, self.batches, self.model = path, [], None

    def watch(self):
        import transformers
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        own = transformers.Trainer._prepare_inputs

        def prepare(trainer, inputs):
            inputs = own(trainer, inputs)
            if self.path:
                self.model = trainer.model
                self.batches.append(copy.deepcopy(inputs))
            return inputs

        transformers.Trainer._prepare_inputs = prepare
        register_optimizer_step_pre_hook(self.before_step)
        if os.environ.get("DS_ACCELERATOR"):
            self.watch_deepspeed()

    def watch_deepspeed(self):
        from deepspeed import DeepSpeedEngine
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

        own = DeepSpeedEngine._take_model_step

        def step(engine, *arguments, **options):
            if self.model is not None:
                self.write(safe_get_full_grad, safe_get_full_fp32_param)
            return own(engine, *arguments, **options)

        DeepSpeedEngine._take_model_step = step

    def before_step(self, *_):
        if self.model is not None:
            self.write(lambda p: p.grad, lambda p: p)

    def write(self, gradient, weight):
        import torch

        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        gradients = {name: found.detach().clone() for name, p in named if (found := gradient(p)) is not None}
        weights = {name: weight(p).detach().clone() for name, p in named}
        if int(os.environ.get("RANK", "0")) == 0:
            torch.save({"batches": self.batches, "weights": weights, "gradients": gradients}, self.path)
        self.path = self.model = None


if os.environ.get("HARNESS_DEVICES"):
    pretend_devices(int(os.environ["HARNESS_DEVICES"]))
if os.environ.get("HARNESS_DTYPE"):
    compute_in(os.environ["HARNESS_DTYPE"])
if os.environ.get("HARNESS_FASTARGS"):
    extend_fastargs()
if os.environ.get("HARNESS_RECORD"):
    Recorder(os.environ["HARNESS_RECORD"]).watch()
