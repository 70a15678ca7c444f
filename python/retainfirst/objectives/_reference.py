"""Reference models: computed in the precision and mode of the model that they are compared with."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.errors import RetainFirstError
from retainfirst.objectives._inputs import unwrapped
from retainfirst.objectives._sequence import evaluation_mode, sequence_log_probs

__all__ = ["adapters_off", "reference_log_probs", "reference_mode"]

logger = logging.getLogger(__name__)


def reference_log_probs(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """Compute :func:`sequence_log_probs` of every row once, so that no reference model need stay in memory.

    Runs without gradients and in eval mode; each module's own mode is restored afterwards, also after an error. Runs
    under the autocast of a model that accelerate has prepared, and under the caller's autocast. A model that will be
    trained under autocast and is not prepared yet needs the caller's: ``with accelerator.autocast():
    reference_log_probs(...)``.

    Args:
        model: The model before unlearning, on any device.
        batches: Batches on any device, such as a ``DataLoader`` that does not shuffle.

    Returns:
        Shape ``[rows]``, float32 (float64 for a float64 model), on the CPU, in the order of the batches.

    Raises:
        RetainFirstError: There is no batch, or one lacks a key.
    """
    device = next(model.parameters()).device
    parts = []
    with torch.no_grad(), evaluation_mode(model), _autocast_of(model):
        for batch in batches:
            moved = {key: value.to(device) for key, value in batch.items()}
            parts.append(sequence_log_probs(model, moved).cpu())
    if not parts:
        raise RetainFirstError("No batch to compute reference log-probabilities of. Give at least one.")
    return torch.cat(parts)


def adapters_off(model: Any) -> Callable[..., Any]:
    """Make a reference out of a PEFT model: the same weights with the adapters switched off.

    The base model of a LoRA run is the frozen reference, and no copy of it is needed.

    Args:
        model: A ``peft.PeftModel`` (any module with ``disable_adapter()``).

    Returns:
        A function that takes the model's inputs and returns its output in eval mode without adapters. Afterwards, also
        after an error, each parameter's ``requires_grad``, the active adapters and the modes are as before.

    Raises:
        RetainFirstError: The model has no adapters to switch off.
    """
    if not hasattr(model, "disable_adapter"):
        raise RetainFirstError(
            f"{type(model).__name__} has no adapters to switch off. "
            "Give a peft.PeftModel, or use a frozen copy of the model as the reference."
        )

    def reference(**inputs: Any) -> Any:
        with _adapters_restored(model), evaluation_mode(model), model.disable_adapter():
            return model(**inputs)

    reference.reference_of = model  # type: ignore[attr-defined]
    return reference


@contextmanager
def reference_mode(model: Callable[..., Any], reference: Callable[..., Any]) -> Iterator[None]:
    """Run a reference as the model runs: without gradients, in eval mode, under the model's autocast."""
    _compare(model, reference)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_autocast_of(model))
        if isinstance(reference, nn.Module):
            stack.enter_context(evaluation_mode(reference))
        yield


@contextmanager
def _autocast_of(model: Callable[..., Any]) -> Iterator[None]:
    """Enter the autocast that accelerate has put into a model's ``forward``, if it has."""
    module: Any = model
    while not hasattr(module, "_original_forward") and isinstance(getattr(module, "module", None), nn.Module):
        module = module.module
    accelerate = sys.modules.get("accelerate")
    if accelerate is None or not hasattr(module, "_original_forward"):
        yield
        return
    state = accelerate.state.AcceleratorState
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        state().mixed_precision if state._shared_state else "no"
    )
    if dtype is None:
        yield
        return
    with torch.autocast(next(module.parameters()).device.type, dtype):
        yield


@contextmanager
def _adapters_restored(model: nn.Module) -> Iterator[None]:
    """Restore which parameters are trained and which adapters are active.

    PEFT switches adapters on again by activating them, which makes all their parameters trainable.
    """
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    names = ("_disable_adapters", "_active_adapter")
    states = [
        (module, name, vars(module)[name]) for module in model.modules() for name in names if name in vars(module)
    ]
    try:
        yield
    finally:
        for module, name, value in states:
            setattr(module, name, value)
        for parameter, required in trainable:
            if parameter.requires_grad != required:
                parameter.requires_grad_(required)


def _compare(model: Callable[..., Any], reference: Callable[..., Any]) -> None:
    inner, other = unwrapped(model), unwrapped(reference)
    if inner is other or not (isinstance(inner, nn.Module) and isinstance(other, nn.Module)):
        return
    for found, wanted, what in (
        (_dtype(other), _dtype(inner), "weights"),
        (_attention(other), _attention(inner), "attention kernels"),
    ):
        if found != wanted and found is not None and wanted is not None:
            _warn_once(what, str(found), str(wanted))


def _dtype(model: nn.Module) -> torch.dtype | None:
    return next((parameter.dtype for parameter in model.parameters()), None)


def _attention(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


@lru_cache
def _warn_once(what: str, found: str, wanted: str) -> None:
    logger.warning(
        "The reference has %s %s and the model %s: they differ by rounding even where both are the same model. "
        "Load the reference as the model.",
        found, what, wanted,
    )  # fmt: skip
