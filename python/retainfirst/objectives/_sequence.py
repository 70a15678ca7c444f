"""Log-probabilities of labelled tokens: what the losses, the references and the evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retainfirst.errors import RetainFirstError

__all__ = [
    "IGNORE_INDEX",
    "adapters_off",
    "answer_probabilities",
    "model_inputs",
    "reference_log_probs",
    "sequence_log_probs",
    "widened_logits",
]

IGNORE_INDEX = -100
"""The label of a token that no loss counts."""


def model_inputs(batch: Mapping[str, Tensor], *, labels: bool) -> dict[str, Tensor]:
    """Pick from a batch what the model takes, and leave the rest (``reference_logps``, indices) out.

    Args:
        batch: The batch.
        labels: Whether the model shall compute its own loss.

    Returns:
        ``input_ids``, ``attention_mask`` and, if asked for, ``labels``.

    Raises:
        RetainFirstError: One of the three is missing from the batch.
    """
    for key in ("input_ids", "attention_mask", "labels"):
        if key not in batch:
            raise RetainFirstError(
                f"Batch has no {key!r}; found {', '.join(map(repr, batch)) or 'nothing'}. "
                "Give input_ids, attention_mask and labels, each of shape [batch, length]."
            )
    return {key: batch[key] for key in ("input_ids", "attention_mask", *(["labels"] if labels else []))}


def widened_logits(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Return the model's logits ``[B, T, V]``, in float32 or wider.

    A log-probability summed over a long answer in bfloat16 would lose the differences that NPO is about.
    """
    logits: Tensor = model(**model_inputs(batch, labels=False)).logits
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def sequence_log_probs(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Sum the log-probabilities of the labelled tokens of each row, ``log p(answer | prompt)``.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``. The label of a row's first
            token is never counted, since nothing predicts it.

    Returns:
        Shape ``[B]``, float32 (float64 for a float64 model), each at most 0, in nats; differentiable.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    logits = widened_logits(model, batch)[:, :-1, :]
    targets = batch["labels"][:, 1:].to(logits.device)
    losses = functional.cross_entropy(logits.transpose(-1, -2), targets, ignore_index=IGNORE_INDEX, reduction="none")
    return -losses.sum(dim=-1)


def label_counts(batch: Mapping[str, Tensor]) -> Tensor:
    """Count the labelled tokens of each row: ``[B]``, int64."""
    return (batch["labels"] != IGNORE_INDEX).sum(dim=-1)


def answer_probabilities(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Return the length-normalised probability of each row's answer, ``p(answer | prompt)^(1/|answer|)``.

    This is TOFU's "Probability" (Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", 2024,
    arXiv 2401.06121, section 2.2): the geometric mean of the labelled tokens' probabilities.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[B, T]``.

    Returns:
        Shape ``[B]``, float32 or float64, in [0, 1]; differentiable.

    Raises:
        RetainFirstError: The batch lacks a key.
    """
    log_probs = sequence_log_probs(model, batch)
    return (log_probs / label_counts(batch).to(log_probs.device)).exp()


def reference_log_probs(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """Compute :func:`sequence_log_probs` of every row once, so that no reference model need stay in memory.

    Runs without gradients and in eval mode; each module's own mode is restored afterwards, also after an
    error.

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
    with torch.no_grad(), evaluation_mode(model):
        for batch in batches:
            moved = {key: value.to(device) for key, value in batch.items()}
            parts.append(sequence_log_probs(model, moved).cpu())
    if not parts:
        raise RetainFirstError("No batch to compute reference log-probabilities of. Give at least one.")
    return torch.cat(parts)


def adapters_off(model: Any) -> Callable[..., Any]:
    """Make a reference out of a PEFT model: the same weights with the adapters switched off.

    For LoRA runs: the base model is the frozen reference, and no copy of it is needed.

    Args:
        model: A ``peft.PeftModel`` (anything with ``disable_adapter()`` that is a module).

    Returns:
        A function that takes the model's inputs and returns its output in eval mode without adapters.
        Afterwards adapters and modes are as before.

    Raises:
        RetainFirstError: The model has no adapters to switch off.
    """
    if not hasattr(model, "disable_adapter"):
        raise RetainFirstError(
            f"{type(model).__name__} has no adapters to switch off. "
            "Give a peft.PeftModel, or use a frozen copy of the model as the reference."
        )

    def reference(**inputs: Any) -> Any:
        with evaluation_mode(model), model.disable_adapter():
            return model(**inputs)

    return reference


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a block; afterwards every module has the mode that it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
