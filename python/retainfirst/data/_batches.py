"""Tokenised rows in padded batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from retainfirst.errors import RetainFirstError
from retainfirst.objectives import IGNORE_INDEX

__all__ = ["PairedCollator", "collate"]

logger = logging.getLogger(__name__)

_REQUIRED = ("input_ids", "attention_mask", "labels")
# Written by packing collators for attention kernels that take the lengths of the packed sequences.
_PACKING = ("seq_lengths", "cu_seq_lens", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")

Row = Mapping[str, Any]


def collate(examples: Sequence[Row], pad_token_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to the longest of them.

    The values of a row are lists, numpy arrays or tensors. Other model inputs with one value a token, such as
    ``position_ids`` and ``token_type_ids``, are padded with 0, and arrays of the same shape in all rows are stacked;
    the objectives give them to models that take them. Rows that are padded on the left get ``position_ids`` if they
    have none. Text and nested columns are left out.

    Args:
        examples: At least one tokenised row.
        pad_token_id: What ``input_ids`` are padded with.

    Returns:
        ``input_ids``, ``attention_mask`` (1 for each real token, also one that equals the pad token) and ``labels``
        (-100 on padding), int64 ``[B, T]``; ``reference_logps``, float32 ``[B]``, if the rows have it; and the other
        model inputs.

    Raises:
        RetainFirstError: There is no row; a row lacks one of the three, or they differ in length, are not integers or
            have no label after the first token; the rows are packed and have no ``position_ids``; or a row lacks an
            input that another has.
    """
    if not examples:
        raise RetainFirstError("There is no row to collate. Give at least one.")
    rows = [_checked(example, f"row {i} of the batch") for i, example in enumerate(examples, start=1)]
    batch = {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=padding)
        for name, padding in (("input_ids", pad_token_id), ("attention_mask", 0), ("labels", IGNORE_INDEX))
    }
    lengths = [len(row["input_ids"]) for row in rows]
    for name in dict.fromkeys(name for example in examples for name in example if name not in (*_REQUIRED, *_PACKING)):
        column = _column(name, [example.get(name) for example in examples], lengths)
        if column is not None:
            batch[name] = column
    mask = batch["attention_mask"]
    if "position_ids" not in batch and bool((mask[:, 0] == 0).any()):
        batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return batch


@dataclass(frozen=True)
class PairedCollator:
    """Collates pairs into ``{"forget": batch, "retain": batch}``, each as :func:`collate` makes it.

    Rows that are no pairs, such as those of an evaluation set, become one batch.

    Attributes:
        pad_token_id: What ``input_ids`` are padded with.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the two padded batches of a list of pairs, or the padded batch of a list of rows.

        Raises:
            RetainFirstError: A row is neither a pair nor tokenised, pairs and rows are mixed, or as :func:`collate`.
        """
        tasks = ("forget", "retain")
        paired = ["input_ids" not in row for row in rows]
        if rows and not any(paired):
            return collate(rows, self.pad_token_id)
        for i, row in enumerate(rows, start=1):
            if not all(isinstance(row.get(task), Mapping) for task in tasks):
                raise RetainFirstError(
                    f"row {i} of the batch has the keys {', '.join(map(repr, row)) or 'none'}. Expected 'forget' and 'retain' "
                    "(a PairedDataset), or 'input_ids', 'attention_mask' and 'labels' in all rows (encode_rows makes them)."
                )
        return {task: collate([row[task] for row in rows], self.pad_token_id) for task in tasks}


def _checked(example: Row, where: str) -> dict[str, Tensor]:
    """Return the three required values of a row as tensors."""
    row = {}
    for name in _REQUIRED:
        value = _as_tensor(example.get(name))
        if value is None:
            found = ", ".join(map(repr, example)) or "nothing"
            raise RetainFirstError(
                f"{where} has no {name!r} of numbers; found {found}. "
                "Give input_ids, attention_mask and labels, of the same length."
            )
        row[name] = value if value.numel() else value.long()
        if value.dim() != 1 or row[name].is_floating_point() or value.shape != row["input_ids"].shape:
            raise RetainFirstError(
                f"{where}: 'input_ids', 'attention_mask' and 'labels' must be integers, one a token; "
                f"found {name!r} of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}."
            )
    if not bool((row["labels"][1:] != IGNORE_INDEX).any()):
        raise RetainFirstError(
            f"{where} has no label after its first token, so there is nothing to forget or retain. Remove the row."
        )
    packing = [name for name in _PACKING if example.get(name) is not None]
    if int(row["attention_mask"].max()) > 1:
        packing.append("an attention_mask with numbers above 1")
        row["attention_mask"] = (row["attention_mask"] > 0).long()
    if packing and example.get("position_ids") is None:
        raise RetainFirstError(
            f"{where} holds several packed sequences ({packing[0]}), but no position_ids that say where each starts. "
            "Give position_ids that start again at 0 with each sequence, or rows with one sequence each."
        )
    return row


def _column(name: str, values: Sequence[Any], lengths: Sequence[int]) -> Tensor | None:
    """Return a further input of all rows, padded or stacked; None if it cannot be an input."""
    tensors = [_as_tensor(value) for value in values]
    if any(tensor is None and value is not None for tensor, value in zip(tensors, values, strict=True)):
        return None
    found = [tensor for tensor in tensors if tensor is not None]
    if found and len(found) < len(values):
        lacking = next(i for i, value in enumerate(values, start=1) if value is None)
        raise RetainFirstError(
            f"row {lacking} of the batch has no {name!r}, other rows have. Give it to all rows or to none."
        )
    if found and all(tensor.dim() and len(tensor) == n for tensor, n in zip(found, lengths, strict=True)):
        return pad_sequence(found, batch_first=True)
    if len({tensor.shape for tensor in found}) == 1:
        return torch.stack(found)
    if found:
        _warn_once(name)
    return None


def _as_tensor(value: Any) -> Tensor | None:
    """Return numbers as int64 or float32 on the CPU, anything else as None."""
    if value is None or isinstance(value, (str, bytes, Mapping)):
        return None
    try:
        tensor = torch.as_tensor(value, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        return None
    if tensor.is_complex():
        return None
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)


_warned: set[str] = set()


def _warn_once(name: str) -> None:
    if name not in _warned:
        _warned.add(name)
        logger.warning(
            "Column %r of the rows is left out of the batches: it has neither one value a token nor the same shape in all rows.",
            name,
        )
