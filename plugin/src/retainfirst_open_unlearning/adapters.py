"""Training a model with adapters: the reference model without a copy, and a base that stays as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from retainfirst.errors import RetainFirstError
from retainfirst.objectives import adapters_off

__all__ = ["AdapterTraining", "AdaptersOff"]


class AdapterTraining:
    """The part of ``RetainFirst<X>`` that knows adapters; goes before the framework's trainer in the bases."""

    def _prepare_ref_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the reference model: the model with its adapters switched off, where that is what the framework would copy."""
        if _adds_nothing(model):
            return AdaptersOff(model)
        return super()._prepare_ref_model(model, *args, **kwargs)  # type: ignore[misc]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the trainer's optimizer; it must not train the base of a model that saves its adapters alone.

        Raises:
            RetainFirstError: It would.
        """
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        me: Any = self
        base = _base_parameters(me.model)
        trained = {id(parameter) for group in me.optimizer.param_groups for parameter in group["params"]}
        wrong = [name for name, parameter in base.items() if id(parameter) in trained]
        if wrong:
            raise RetainFirstError(
                f"{type(self).__name__}: the optimizer has {len(wrong)} parameters of the base model, such as {wrong[0]}, but"
                " only the adapters are saved. Train the adapters alone; with RMU:"
                ' trainer.method_args.trainable_params_regex=[".*lora_.*"]'
            )
        for parameter in base.values():
            parameter.requires_grad_(False)  # RMU asks for the gradients of all parameters
        return optimizer


class AdaptersOff:
    """A reference model that is the trained model without its adapters, in eval mode and without gradients.

    Args:
        model: A ``peft.PeftModel``. It is trained on, and its own mode stays.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._run = model, adapters_off(model)

    def __call__(self, **inputs: Any) -> Any:
        """Return the output of the model without its adapters."""
        with torch.no_grad():
            return self._run(**inputs)

    def eval(self) -> AdaptersOff:
        """Do nothing: it always runs in eval mode."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _base_parameters(model: Any) -> dict[str, nn.Parameter]:
    """Return the parameters that are no adapter's, of a model that saves its adapters alone; else nothing."""
    if not (hasattr(model, "disable_adapter") or getattr(model, "_hf_peft_config_loaded", False)):
        return {}
    prefix = getattr(getattr(model, "base_model", None), "prefix", "lora_")  # peft's, such as ia3_
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not any(part.startswith((prefix, "modules_to_save")) for part in name.split("."))
    }


def _adds_nothing(model: Any) -> bool:
    """Return whether a model is a frozen base with LoRA adapters whose output is still 0."""
    if not hasattr(model, "disable_adapter"):
        return False
    base = _base_parameters(model)
    adapters = {name: parameter for name, parameter in model.named_parameters() if name not in base}
    ups = [parameter for name, parameter in adapters.items() if ".lora_B." in name]
    if any(parameter.requires_grad for parameter in base.values()):
        return False
    only_lora = all(".lora_A." in name or ".lora_B." in name for name in adapters)
    return bool(ups) and only_lora and not any(bool(parameter.any()) for parameter in ups)
