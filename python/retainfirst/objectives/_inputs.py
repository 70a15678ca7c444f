"""The inputs of a forward pass, picked from a batch, and the logits that come back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.errors import RetainFirstError, ShapeMismatch

__all__ = ["IGNORE_INDEX", "check_batch", "model_inputs", "scored_labels", "unwrapped", "widened_logits"]

IGNORE_INDEX = -100
"""The label of a token that no loss counts."""

_ALWAYS = ("input_ids", "attention_mask")
# For a callable whose signature has no names, such as a function of **inputs.
_COMMON = ("position_ids", "token_type_ids")


def check_batch(batch: Mapping[str, Tensor]) -> None:
    """Refuse a batch without the three tensors that every loss needs."""
    for key in (*_ALWAYS, "labels"):
        if key not in batch:
            raise RetainFirstError(
                f"Batch has no {key!r}; found {', '.join(map(repr, batch)) or 'nothing'}. "
                "Give input_ids, attention_mask and labels, each of shape [batch, length]."
            )


def model_inputs(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick from a batch the inputs that a model takes, without labels.

    ``input_ids`` and ``attention_mask`` always; further keys, such as ``position_ids``, if the model's ``forward``
    names them. A model takes ``labels`` only to add its own loss, which may hold other terms than the likelihood of the
    tokens.

    Args:
        model: The model, as a trainer or PEFT may have wrapped it.
        batch: The batch.

    Returns:
        The inputs by name.

    Raises:
        RetainFirstError: ``input_ids``, ``attention_mask`` or ``labels`` is missing from the batch.
    """
    check_batch(batch)
    inputs = {key: batch[key] for key in _ALWAYS}
    further = batch.keys() - {*_ALWAYS, "labels", "reference_logps"}
    if further:
        taken = _argument_names(model)
        inputs |= {key: batch[key] for key in batch if key in further and key in taken}
    return inputs


def widened_logits(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Return the model's logits for the batch's tokens, ``[B, T, V]``, in float32 or wider.

    A log-probability summed over a long answer in bfloat16 would lose the differences that NPO needs. Adapters that put
    virtual tokens before the row give more logits; the last ``T`` are those of the row. Packed rows are run one
    sequence a row, so that no sequence attends to another.

    Raises:
        RetainFirstError: The batch lacks a key.
        ShapeMismatch: The model gives fewer logits than there are tokens.
    """
    inputs = model_inputs(model, batch)
    starts = _sequence_starts(batch)
    if starts is not None and bool(starts.any()):
        return _packed_logits(model, inputs, batch, starts)
    return _last_logits(model(**inputs).logits, batch["input_ids"].shape[1])


def scored_labels(batch: Mapping[str, Tensor]) -> Tensor:
    """Return for each position the label of the next token, if the position predicts it, else -100.

    Nothing predicts the first token of a row. The same holds for the first token after padding on the left, and for the
    first token of each packed sequence.

    Returns:
        ``[B, T]``, int64; the last column is -100.
    """
    labels, mask = batch["labels"], batch["attention_mask"]
    shifted = nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
    if mask.shape == labels.shape:
        shifted = shifted.masked_fill(mask.to(labels.device) == 0, IGNORE_INDEX)
    starts = _sequence_starts(batch)
    if starts is not None:
        shifted = shifted.masked_fill(nn.functional.pad(starts, (0, 1))[:, 1:].to(labels.device), IGNORE_INDEX)
    return shifted.contiguous()


def unwrapped(model: Any) -> Any:
    """Return the model inside the wrappers of PEFT, torch and trainers."""
    return _layers(model)[-1]


def _layers(model: Any) -> list[Any]:
    """Return the model and what it wraps, from the outside in."""
    layers = [model]
    while True:
        model = layers[-1]
        if hasattr(model, "get_base_model"):
            layers.append(model.get_base_model())
        elif callable(getattr(model, "reference_of", None)):
            layers.append(model.reference_of)
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            layers.append(model._orig_mod)
        elif isinstance(getattr(model, "module", None), nn.Module) and "input_ids" not in _parameters(model):
            layers.append(model.module)
        else:
            return layers


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    # Of the class: trainers replace the forward of an instance by one that only passes its arguments on.
    function = type(model).forward if isinstance(model, nn.Module) else model
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _argument_names(model: Callable[..., Any]) -> set[str]:
    layers = [_parameters(layer) for layer in _layers(model)]
    if "input_ids" not in layers[-1] and any(p.kind is p.VAR_KEYWORD for p in layers[-1].values()):
        return set(_COMMON)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for layer in layers for name, p in layer.items() if p.kind in kinds}


def _last_logits(logits: Tensor, length: int) -> Tensor:
    if logits.shape[1] < length:
        raise ShapeMismatch(
            f"The model gives logits of shape {tuple(logits.shape)} for rows of {length} tokens. Give one row of logits a token."
        )
    if logits.shape[1] > length:
        logits = logits[:, -length:]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _sequence_starts(batch: Mapping[str, Tensor]) -> Tensor | None:
    """Tell where ``position_ids`` start again inside a row, ``[B, T]``; None if the batch has none."""
    positions, mask = batch.get("position_ids"), batch["attention_mask"]
    if positions is None or positions.shape != mask.shape:
        return None
    real = mask.to(positions.device) != 0
    jumps = (positions[:, 1:] != positions[:, :-1] + 1) & real[:, 1:] & real[:, :-1]
    return nn.functional.pad(jumps, (1, 0))


def _packed_logits(
    model: Callable[..., Any], inputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], starts: Tensor
) -> Tensor:
    """Run each packed sequence as a row of its own, and put the logits back where its tokens are."""
    shape = batch["input_ids"].shape
    rows, columns = (batch["attention_mask"] != 0).nonzero(as_tuple=True)
    # Number the sequences of all rows, in order.
    first = (starts[rows, columns] | (nn.functional.pad(rows, (1, 0), value=-1)[:-1] != rows)).long()
    sequence = first.cumsum(0) - 1
    begin = first.nonzero().squeeze(-1)
    place = torch.arange(len(rows), device=rows.device) - begin[sequence]
    count, length = len(begin), int(place.max()) + 1
    split = {}
    for name, value in inputs.items():
        if value.shape[:2] == shape:
            split[name] = value.new_zeros((count, length, *value.shape[2:]))
            split[name][sequence, place] = value[rows, columns]
    split["attention_mask"] = torch.zeros((count, length), dtype=torch.int64, device=rows.device)
    split["attention_mask"][sequence, place] = 1
    logits = _last_logits(model(**split).logits, length)
    empty = logits.new_zeros((*shape, logits.shape[-1]))
    return empty.index_put((rows, columns), logits[sequence, place])
