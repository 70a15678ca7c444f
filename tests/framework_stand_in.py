"""A small stand-in for open-unlearning: a registry and one trainer of each kind that the plugin must handle or refuse.

The losses are ours. The names and the calls between the classes are the framework's.
"""

from __future__ import annotations

import copy
import re
import sys
from types import ModuleType

import torch
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput

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

    def _prepare_ref_model(self, model):
        return copy.deepcopy(model).eval()

    def compute_retain_loss(self, model, retain_inputs):
        return model(**retain_inputs).loss

    def compute_loss(self, model, inputs, return_outputs=False):
        forget_loss = -model(**model_inputs(inputs["forget"])).loss
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return self.gamma * forget_loss + self.alpha * retain_loss


class Referenced(GradDiff):
    """Has a reference model and an option of its own, like NPO."""

    def __init__(self, beta=0.1, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.beta = beta
        self.ref_model = self._prepare_ref_model(self.model)

    def compute_loss(self, model, inputs, return_outputs=False):
        batch = model_inputs(inputs["forget"])
        with torch.no_grad():
            reference = self.ref_model(**batch).loss
        ratio = model(**batch).loss - reference
        forget_loss = -torch.nn.functional.logsigmoid(self.beta * ratio) * 2 / self.beta
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return self.gamma * forget_loss + self.alpha * retain_loss


class ByPattern(Referenced):
    """Trains the parameters that match a pattern, and takes the gradients of all of them, like RMU."""

    def __init__(self, trainable_params_regex=(".*",), *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.trainable_params_regex = trainable_params_regex

    def create_optimizer(self):
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad = any(re.fullmatch(pattern, name) for pattern in self.trainable_params_regex)
        super().create_optimizer()
        for parameter in self.model.parameters():
            parameter.requires_grad = True


class Dual(GradDiff):
    """Weighs its losses by preferences that change at each micro-batch, like PDU."""

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


class Renamed(GradDiff):
    """Has its loss in another method, like the trainers of later versions of the framework."""

    def compute_unlearn_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        forget_loss = -model(**model_inputs(inputs["forget"])).loss
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return self.gamma * forget_loss + self.alpha * retain_loss

    def compute_loss(self, model, inputs, **kwargs):
        return self.compute_unlearn_loss(model, inputs, **kwargs)


class Extended(Referenced):
    """Uses the loss of the class that it extends."""

    def compute_loss(self, model, inputs, return_outputs=False):
        return super().compute_loss(model, inputs)


class Helped(GradDiff):
    """Computes part of its loss in another method, and takes an option from its keyword arguments."""

    def __init__(self, *args, **kwargs):
        self.sharpness = kwargs.pop("sharpness", 1.0)
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False):
        return self.gamma * -model(**model_inputs(inputs["forget"])).loss + self.weighted(model, inputs)

    def weighted(self, model, inputs):
        return self.alpha * self.compute_retain_loss(model, model_inputs(inputs["retain"]))


class Overridden(Renamed):
    """Goes back to the earlier method's name: its own loss counts, not the one that it inherits under the later name."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        forget_loss = model(**model_inputs(inputs["forget"])).logits.square().mean()
        return self.gamma * forget_loss + self.alpha * self.compute_retain_loss(model, model_inputs(inputs["retain"]))


class ByRow(GradDiff):
    """Weighs the forget loss of each row, and adds the losses by a matrix product."""

    def compute_loss(self, model, inputs, return_outputs=False):
        by_row = self.gamma * model(**model_inputs(inputs["forget"])).logits.square().mean((1, 2))
        retain_loss = self.compute_retain_loss(model, model_inputs(inputs["retain"]))
        return torch.stack([by_row.mean(), retain_loss]) @ torch.tensor([1.0, self.alpha]).to(by_row)


class Logger(GradDiff):
    """Logs in a training_step of its own."""

    def training_step(self, *arguments, **options):
        return super().training_step(*arguments, **options)


class LoggerByInstance(GradDiff):
    """Sets its training_step in the constructor."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.training_step = lambda *arguments: Trainer.training_step(self, *arguments)


class Finetune(FinetuneTrainer):
    """Has a loss of its own, but forgets nothing."""

    def compute_loss(self, model, inputs, return_outputs=False):
        return model(**model_inputs(inputs)).loss


class OwnRetain(FinetuneTrainer):
    """Computes both losses itself."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**model_inputs(inputs["retain"])).loss - model(**model_inputs(inputs["forget"])).loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None


class OwnRetainBeside(GradDiff):
    """Computes both losses itself, though it inherits compute_retain_loss."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        retain_loss = model(**model_inputs(inputs["retain"])).loss
        return -self.gamma * model(**model_inputs(inputs["forget"])).loss + self.alpha * retain_loss


class OwnRetainIfGiven(FinetuneTrainer):
    """Only forgets if the batch has no retain part."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = -model(**model_inputs(inputs["forget"])).loss
        return loss + model(**model_inputs(inputs["retain"])).loss if "retain" in inputs else loss


class OwnRetainPulled(OwnRetainBeside):
    """Has a third part besides."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return super().compute_loss(model, inputs) + _distance(self, model)


class PulledAround(GradDiff):
    """Has its loss in compute_unlearn_loss, and adds a pull to the starting weights in compute_loss."""

    def compute_unlearn_loss(self, model, inputs):
        return GradDiff.compute_loss(self, model, inputs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self.compute_unlearn_loss(model, inputs) + _distance(self, model)


class PulledDual(Dual):
    """Adds to what final_loss_value returns a pull to the starting weights."""

    def compute_loss(self, model, inputs, return_outputs=False):
        return super().compute_loss(model, inputs) + _distance(self, model)


class ThreeDual(Dual):
    """Gives final_loss_value a third loss."""

    def final_loss_value(self, losses):
        return super().final_loss_value(losses[:2]) + losses[2]

    def compute_loss(self, model, inputs, return_outputs=False):
        forget_loss = -model(**model_inputs(inputs["forget"])).loss
        retain_loss = self.compute_retain_loss(model=model, retain_inputs=model_inputs(inputs["retain"]))
        return self.final_loss_value([forget_loss, retain_loss, _distance(self, model)])


class DualOfThree(Dual):
    """Has a third preference."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.preferences.append(1.0)


def _distance(trainer, model):
    """Return the squared distance from the starting weights; it is 0 at the first batch, and so is its gradient."""
    if not hasattr(trainer, "start"):
        trainer.start = [p.detach().clone() for p in model.parameters()]
    return sum((p - start).square().sum() for p, start in zip(model.parameters(), trainer.start, strict=True))


def _odd(name, combine):
    """Make a trainer whose loss is almost the sum of two."""

    def compute_loss(self, model, inputs, return_outputs=False):
        retain = lambda: self.compute_retain_loss(model, model_inputs(inputs["retain"]))  # noqa: E731
        forget = -model(**model_inputs(inputs["forget"])).loss
        return combine(self.gamma, self.alpha, forget, retain, lambda: _distance(self, model), self.state.global_step)

    return type(name, (GradDiff,), {"compute_loss": compute_loss, "__module__": __name__})


def _hidden(gamma, alpha, forget, retain, distance, step):
    """Add the third part in the same operation that weighs the forget loss, so that the graph does not show it."""
    weights = torch.stack([torch.as_tensor(one).double() for one in (gamma, alpha, 1e3)])
    return torch.stack([forget.double(), retain().double(), distance().double()]) @ weights


ODD = {
    "Twice": ("more than once", lambda g, a, forget, retain, *_: g * forget + a * (retain() + retain())),
    "Tenfold": ("the retain loss by", lambda g, a, forget, retain, *_: g * forget + 10 * a * retain()),
    "Squared": ("the forget loss by", lambda g, a, forget, retain, *_: g**2 * forget + a * retain()),
    "Unweighted": ("the forget loss by", lambda g, a, forget, retain, *_: 3.0 * forget + a * retain()),
    "Unused": ("does not add", lambda g, a, forget, retain, *_: g * forget + a * retain().item()),
    "Third": ("a third part", lambda g, a, forget, retain, *_: g * forget + a * retain() + forget**2),
    "Pulled": ("a third part", lambda g, a, forget, retain, distance, _: g * forget + a * retain() + distance()),
    "PulledByAlpha": (
        "a third part",
        lambda g, a, forget, retain, distance, _: g * forget + a * (retain() + distance()),
    ),
}
"""Trainers that are refused at the first batch: the reason, and the loss."""

ODD_LATER = {
    "PulledLater": (
        "a third part",
        lambda g, a, forget, retain, distance, step: g * forget + a * retain() + (distance() if step else 0.0),
    ),
    "PulledInHiding": ("a third part", _hidden),
    "Ramped": ("the retain loss by", lambda g, a, forget, retain, _, step: g * forget + (1 + step) * a * retain()),
}
"""Trainers whose loss is the sum at the first batch, and is refused at the second step."""

ODD_TRAINERS = [_odd(name, combine) for name, (_, combine) in (ODD | ODD_LATER).items()]


class TwoDevices(torch.nn.Module):
    """Does as torch's DataParallel with two GPUs: halves the batch, and gathers logits by rows and losses into a vector."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, **batch):
        halves = [{key: value.chunk(2)[i] for key, value in batch.items()} for i in range(2)]
        outputs = [self.module(**half) for half in halves]
        gathered = {"logits": torch.cat([one.logits for one in outputs])}
        return CausalLMOutput(loss=torch.stack([one.loss for one in outputs]), **gathered)


def install(monkeypatch) -> ModuleType:
    """Put a module ``trainer`` with a registry where the plugin looks for the framework's."""
    module = ModuleType("trainer")
    classes = [
        Trainer, FinetuneTrainer, GradAscent, GradDiff, Referenced, ByPattern, Dual, Renamed, Extended, Helped, Overridden, ByRow,
        Logger, LoggerByInstance, Finetune, OwnRetain, OwnRetainBeside, OwnRetainIfGiven, OwnRetainPulled, PulledAround,
        PulledDual, ThreeDual, DualOfThree, *ODD_TRAINERS,
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
