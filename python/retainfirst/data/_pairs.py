"""Forget and retain rows in pairs, and pairs in padded batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from retainfirst.data._encode import Example
from retainfirst.data._padding import pad_token_id
from retainfirst.data._sets import EncodedSet, encode_rows
from retainfirst.data._sources import read_rows
from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.objectives._sequence import IGNORE_INDEX

__all__ = ["PAIRINGS", "Pair", "PairedCollator", "PairedDataset", "collate", "load_pairs"]

PAIRINGS = ("cycle", "sample")
"""How the shorter set is stretched to the length of the longer one."""


class Pair(TypedDict):
    """One forget row and one retain row."""

    forget: Example
    retain: Example


class PairedDataset(Dataset[Pair]):
    """Pairs of a forget row and a retain row, as many as the longer set has rows.

    Pair ``i`` has row ``i`` of the longer set. The shorter one is gone through again and again
    (``"cycle"``), or drawn from with replacement (``"sample"``), where the draw is a function of seed and
    ``i`` alone: order, epochs, workers and a resumed run do not change it.

    Attributes:
        forget: The forget set, with its counts of truncated and dropped rows.
        retain: The retain set.
    """

    def __init__(self, forget: EncodedSet, retain: EncodedSet, pairing: str = "cycle", seed: int = 0) -> None:
        """Pair two sets.

        Args:
            forget: The forget set.
            retain: The retain set.
            pairing: One of :data:`PAIRINGS`.
            seed: For ``"sample"``.

        Raises:
            RetainFirstError: The pairing is unknown, or a set is empty.
        """
        _check_pairing(pairing)
        for encoded in (forget, retain):
            if not len(encoded):
                raise RetainFirstError(f"{encoded.name} has no rows. Give at least one.")
        self.forget, self.retain, self._pairing, self._seed = forget, retain, pairing, seed

    def __len__(self) -> int:
        return max(len(self.forget), len(self.retain))

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"Pair {index} of {len(self)}.")
        return {"forget": self._row(self.forget, index), "retain": self._row(self.retain, index)}

    def _row(self, rows: EncodedSet, index: int) -> Example:
        if len(rows) < len(self) and self._pairing == "sample":
            # Python promises the same random() for a seed on every platform and in every version.
            return rows[int(random.Random(f"{self._seed}:{index}").random() * len(rows))]
        return rows[index % len(rows)]


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to the longest of them.

    Args:
        examples: At least one tokenised row.
        pad_token_id: What ``input_ids`` are padded with.

    Returns:
        ``input_ids``, ``attention_mask`` (1 for each real token, also one that equals the pad token) and
        ``labels`` (-100 on padding), int64 ``[B, T]``; and ``reference_logps``, float32 ``[B]``, if the rows
        have it.
    """
    length = max(len(example["input_ids"]) for example in examples)

    def padded(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows], dtype=torch.int64)

    batch = {
        "input_ids": padded([example["input_ids"] for example in examples], pad_token_id),
        "attention_mask": padded([example["attention_mask"] for example in examples], 0),
        "labels": padded([example["labels"] for example in examples], IGNORE_INDEX),
    }
    if "reference_logps" in examples[0]:
        batch["reference_logps"] = torch.tensor(
            [example["reference_logps"] for example in examples], dtype=torch.float32
        )
    return batch


@dataclass(frozen=True)
class PairedCollator:
    """Collates pairs into ``{"forget": batch, "retain": batch}``, each as :func:`collate` makes it.

    Attributes:
        pad_token_id: What ``input_ids`` are padded with.
    """

    pad_token_id: int

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, dict[str, Tensor]]:
        """Return the two padded batches of a list of pairs."""
        return {
            "forget": collate([pair["forget"] for pair in pairs], self.pad_token_id),
            "retain": collate([pair["retain"] for pair in pairs], self.pad_token_id),
        }


def load_pairs(
    forget: str | Path,
    retain: str | Path,
    tokenizer: Any,
    *,
    max_length: int = 512,
    chat_template: str = "auto",
    pairing: str = "cycle",
    seed: int = 0,
) -> PairedDataset:
    """Read, check, tokenise and pair two sources.

    Args:
        forget: File or hub name of what shall be forgotten (``read_rows`` gives the syntax).
        retain: The same for what shall be retained.
        tokenizer: A tokenizer of transformers with a pad token.
        max_length: In tokens; longer rows are cut, counted and reported.
        chat_template: ``"auto"``, ``"always"`` or ``"never"`` (``encode``).
        pairing: One of :data:`PAIRINGS`.
        seed: For the pairing ``"sample"``.

    Returns:
        The pairs; ``.forget`` and ``.retain`` carry ``truncated`` and ``dropped``. Batch them with
        ``PairedCollator(pad_token_id(tokenizer))``.

    Raises:
        RetainFirstError: The tokenizer has no pad token, an option is unknown, or a source or a row is bad.
        MissingDependency: A hub name is given and the library datasets is not installed.
    """
    # What is wrong in the call shows before minutes of reading and tokenising.
    pad_token_id(tokenizer)
    _check_pairing(pairing)
    forget_set, retain_set = (
        encode_rows(read_rows(source), tokenizer, max_length, chat_template=chat_template, name=str(source))
        for source in (forget, retain)
    )
    return PairedDataset(forget_set, retain_set, pairing, seed)


def _check_pairing(pairing: str) -> None:
    if pairing not in PAIRINGS:
        raise RetainFirstError(f"Unknown pairing {pairing!r}. {did_you_mean(str(pairing), PAIRINGS)}")
