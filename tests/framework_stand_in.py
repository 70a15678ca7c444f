"""What the plugin relies on in open-unlearning, in the smallest form: a registry, a loader, and trainers of each kind.

The losses are ours; the shape of the classes (who calls what, with which names) is the framework's.
"""

from __future__ import annotations

import copy
import sys
from types import ModuleType

import torch
from transformers import Trainer, TrainingArguments

KEYS = ("input_ids", "attention_mask", "labels")


def model_inputs(batch):
    return {key: batch[key] for key in KEYS}


class FinetuneTrainer(Trainer):
    def __init__(self, evaluators=None, template_args=None, *args, **kwargs):
        self.evaluators, self.template_args = evaluators, template_args
        super().__init__(*args, **kwargs)


class GradAscent(FinetuneTrainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        return -model(**model_inputs(inputs["forget"])).loss


class GradDiff(FinetuneTrainer):
    def __init__(self, gamma=1.0, alpha=1.0, retain_loss_type="NLL", *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gamma, self.alpha, self.retain_loss_type, self.ref_model = gamma, alpha, retain_loss_type, None

    def compute_retain_loss(self, model, retain_inputs):
        return model(**retain_inputs).loss

    def compute_loss(self, model, inputs, return_outputs=False):
        forget_loss = -model(**model_inputs(inputs["forget"])).loss
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return self.gamma * forget_loss + self.alpha * retain_loss


class Referenced(GradDiff):
    """With a reference model and an option of its own, as NPO has."""

    def __init__(self, beta=0.1, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.beta = beta
        self.ref_model = copy.deepcopy(self.model).eval()

    def compute_loss(self, model, inputs, return_outputs=False):
        batch = model_inputs(inputs["forget"])
        with torch.no_grad():
            reference = self.ref_model(**batch).loss
        ratio = model(**batch).loss - reference
        forget_loss = -torch.nn.functional.logsigmoid(self.beta * ratio) * 2 / self.beta
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return self.gamma * forget_loss + self.alpha * retain_loss


class Dual(GradDiff):
    """Weighs its losses by preferences that move at each micro-batch, as PDU does."""

    def __init__(self, step_size=0.5, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.preferences, self.step_size = [self.gamma, self.alpha], step_size

    def final_loss_value(self, losses):
        loss = self.preferences[0] * losses[0] + self.preferences[1] * losses[1]
        self.preferences[1] = max(0.0, self.preferences[1] + self.step_size * (losses[1].item() - 3.0))
        return loss

    def compute_loss(self, model, inputs, return_outputs=False):
        forget_loss = -model(**model_inputs(inputs["forget"])).loss
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return self.final_loss_value([forget_loss, retain_loss])


class OwnRetain(FinetuneTrainer):
    """Cannot be split: it computes both losses itself."""

    def compute_loss(self, model, inputs, return_outputs=False):
        return model(**model_inputs(inputs["retain"])).loss - model(**model_inputs(inputs["forget"])).loss


class Unweighted(GradDiff):
    """Cannot be split: the forget loss has another weight than gamma."""

    def compute_loss(self, model, inputs, return_outputs=False):
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return 3.0 * -model(**model_inputs(inputs["forget"])).loss + retain_loss


class Renamed(GradDiff):
    """As in later versions of the framework, which moved the loss to a method of its own."""

    def compute_unlearn_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        forget_loss = -model(**model_inputs(inputs["forget"])).loss
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return self.gamma * forget_loss + self.alpha * retain_loss

    def compute_loss(self, model, inputs, **kwargs):
        return self.compute_unlearn_loss(model, inputs, **kwargs)


class Extended(Referenced):
    """Leaves its loss to the class that it extends, as a method of one's own may."""

    def compute_loss(self, model, inputs, return_outputs=False):
        return super().compute_loss(model, inputs)


class Helped(GradDiff):
    """Does part of its work in a method of its own."""

    def __init__(self, *args, **kwargs):
        self.sharpness = kwargs.pop("sharpness", 1.0)
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False):
        return self.gamma * -model(**model_inputs(inputs["forget"])).loss + self.weighted(model, inputs)

    def weighted(self, model, inputs):
        return self.alpha * self.compute_retain_loss(model, model_inputs(inputs["retain"]))


class Overridden(Renamed):
    """Goes back to the older way: its own loss counts, not the one that it inherits under the later name."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        forget_loss = model(**model_inputs(inputs["forget"])).logits.square().mean()
        return self.gamma * forget_loss + self.alpha * self.compute_retain_loss(model, model_inputs(inputs["retain"]))


def _odd(name, combine):
    """A trainer whose code looks as if it could be split, and whose loss cannot."""

    def compute_loss(self, model, inputs, return_outputs=False):
        retain = lambda: self.compute_retain_loss(model, model_inputs(inputs["retain"]))  # noqa: E731
        return combine(self.gamma, self.alpha, -model(**model_inputs(inputs["forget"])).loss, retain)

    return type(name, (GradDiff,), {"compute_loss": compute_loss, "__module__": __name__})


ODD = {
    "Twice": ("more than once", lambda gamma, alpha, forget, retain: gamma * forget + alpha * (retain() + retain())),
    "Tenfold": ("the retain loss by", lambda gamma, alpha, forget, retain: gamma * forget + 10 * alpha * retain()),
    "Squared": ("the forget loss by", lambda gamma, alpha, forget, retain: gamma**2 * forget + alpha * retain()),
    "Third": ("a third part", lambda gamma, alpha, forget, retain: gamma * forget + alpha * retain() + forget**2),
}
ODD_TRAINERS = [_odd(name, combine) for name, (_, combine) in ODD.items()]


def install(monkeypatch) -> ModuleType:
    """Put a module ``trainer`` with a registry where the plugin looks for the framework's."""
    module = ModuleType("trainer")
    classes = [
        Trainer, FinetuneTrainer, GradAscent, GradDiff, Referenced, Dual, OwnRetain, Unweighted, Renamed, Extended, Helped,
        Overridden, *ODD_TRAINERS,
    ]  # fmt: skip
    module.TRAINER_REGISTRY = {one.__name__: one for one in classes}
    monkeypatch.setitem(sys.modules, "trainer", module)
    return module


def arguments(folder, **options) -> TrainingArguments:
    defaults = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2, "learning_rate": 0.1, "optim": "sgd",
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "remove_unused_columns": False,
        "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **{**defaults, **options})
