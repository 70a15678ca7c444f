"""Arguments of the transformers trainer that a two-gradient step cannot honour."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from retainfirst.errors import RetainFirstError, require

__all__ = ["REFUSED", "refuse_arguments", "refuse_optimizer", "refuse_split_model"]

_OWN_LOSS = "it changes the trainer's own loss, which does not run here; put it into your forget and retain losses"

REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "label_smoothing_factor": ((0, 0.0), _OWN_LOSS),
    "past_index": ((-1,), _OWN_LOSS),
    "include_num_input_tokens_seen": (
        (False, "no"),
        "it counts the input_ids of a flat batch, and a pair of batches has none",
    ),
    "half_precision_backend": (("auto", "cpu_amp", "cuda_amp"), "apex runs the backward pass itself; use bf16 or fp16"),
    "group_by_length": ((False,), "it reads the lengths of flat rows, and a pair has two"),
    "train_sampling_strategy": (("random", "sequential"), "it reads the lengths of flat rows, and a pair has two"),
    "parallelism_config": ((None,), "context and tensor parallelism split a flat batch; use DDP, FSDP or DeepSpeed"),
}
"""Fields of ``TrainingArguments`` that are refused: the values that pass, and the reason against the others."""


def refuse_arguments(trainer: str, arguments: Any, options: Mapping[str, Any], processes: int) -> None:
    """Refuse what the caller asked for and a two-gradient step would silently ignore.

    Args:
        trainer: The trainer's class, for the error.
        arguments: Its ``TrainingArguments``.
        options: The other arguments of its constructor, by name.
        processes: How many processes train.

    Raises:
        RetainFirstError: The text names the argument and the reason.
    """
    for name, (passing, reason) in REFUSED.items():
        value = getattr(arguments, name, passing[0])
        if getattr(value, "value", value) not in passing:
            raise RetainFirstError(f"{trainer}: {name}={value!r} is not supported: {reason}")
    if options.get("compute_loss_func") is not None:
        raise RetainFirstError(f"{trainer}: compute_loss_func is not supported: {_OWN_LOSS}")
    name = "average_tokens_across_devices"
    default = {field.name: field.default for field in dataclasses.fields(arguments)}.get(name)
    if processes > 1 and default is True and not getattr(arguments, name):
        raise RetainFirstError(
            f"{trainer}: {name}=False is not supported: the combined gradient is that of the whole batch of all processes"
        )


def refuse_optimizer(arguments: Any) -> None:
    """Refuse an optimiser that updates during the backward pass.

    Args:
        arguments: The trainer's ``TrainingArguments``.

    Raises:
        RetainFirstError: It is LOMO, AdaLOMO or a layer-wise one.
    """
    optim = str(getattr(arguments.optim, "value", arguments.optim))
    if "lomo" in optim or "layerwise" in optim:
        raise RetainFirstError(
            f"optim={optim!r} updates parameters inside the backward pass, before two gradients can be combined"
        )


def refuse_split_model(trainer: str, model: Any) -> None:
    """Refuse a model whose layers are split over processes, which needs a training step of its own.

    Args:
        trainer: The trainer's class, for the error.
        model: Its model.

    Raises:
        RetainFirstError: The model was loaded for tensor parallelism, or SageMaker splits it.
    """
    if (getattr(model, "_tp_size", None) or 1) > 1:
        raise RetainFirstError(
            f"{trainer}: a model with tensor parallelism is not supported; use DDP, FSDP or DeepSpeed"
        )
    if require("transformers.utils", "hf").is_sagemaker_mp_enabled():
        raise RetainFirstError(f"{trainer}: SageMaker's model parallelism is not supported; use DDP, FSDP or DeepSpeed")
