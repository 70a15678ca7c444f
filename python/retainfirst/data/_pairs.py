"""Forget and retain rows in pairs."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from torch.utils.data import Dataset

from retainfirst.data._encode import Example
from retainfirst.data._padding import pad_token_id
from retainfirst.data._sets import EncodedSet, encode_rows
from retainfirst.data._sources import read_rows
from retainfirst.errors import RetainFirstError, did_you_mean

__all__ = ["PAIRINGS", "Pair", "PairedDataset", "load_pairs"]

PAIRINGS = ("cycle", "sample")
"""How the shorter set is made as long as the longer one: in turns, or by random draws."""


class Pair(TypedDict):
    """One forget row and one retain row."""

    forget: Example
    retain: Example


class PairedDataset(Dataset[Pair]):
    """Pairs of a forget row and a retain row, as many as the longer set has rows.

    Pair ``i`` has row ``i`` of the longer set. The shorter set is repeated from its first row (``"cycle"``) or drawn
    from with replacement (``"sample"``). A draw depends on the seed and ``i`` alone, not on order, epochs, workers or
    resuming.

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


def load_pairs(
    forget: str | Path,
    retain: str | Path,
    tokenizer: Any,
    *,
    max_length: int = 512,
    chat_template: str = "auto",
    pairing: str = "cycle",
    seed: int = 0,
    now: datetime | None = None,
    model: Any = None,
) -> PairedDataset:
    """Read, check, tokenise and pair two sources.

    Args:
        forget: File or hub name of the rows to forget (:func:`read_rows` gives the syntax).
        retain: The same for the rows to retain.
        tokenizer: A tokenizer of transformers with a pad token.
        max_length: In tokens; longer rows are cut, counted and reported.
        chat_template: ``"auto"``, ``"always"`` or ``"never"`` (:func:`encode`).
        pairing: One of :data:`PAIRINGS`.
        seed: For the pairing ``"sample"``.
        now: The time for chat templates that read the clock; None: 26 July 2024. A run that passes its start must pass
            the same time when it is resumed.
        model: The model or its config; rows that are longer than its positions are refused (:func:`encode_rows`).

    Returns:
        The pairs; ``.forget`` and ``.retain`` carry ``truncated`` and ``dropped``. Batch them with
        ``PairedCollator(pad_token_id(tokenizer))``.

    Raises:
        RetainFirstError: The tokenizer has no pad token, an option is unknown, a source or a row is bad, or a row is
            longer than the model's positions.
        MissingDependency: A hub name is given and the library datasets is not installed.
    """
    # Wrong options are refused before minutes of reading and tokenising.
    pad_token_id(tokenizer)
    _check_pairing(pairing)
    forget_set, retain_set = (
        encode_rows(
            read_rows(source),
            tokenizer,
            max_length,
            chat_template=chat_template,
            name=str(source),
            now=now,
            model=model,
        )
        for source in (forget, retain)
    )
    return PairedDataset(forget_set, retain_set, pairing, seed)


def _check_pairing(pairing: str) -> None:
    if pairing not in PAIRINGS:
        raise RetainFirstError(f"Unknown pairing {pairing!r}. {did_you_mean(str(pairing), PAIRINGS)}")
