"""The tokenised rows of one source, with the counts of truncated and dropped rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from retainfirst.data._encode import Encoder, Example
from retainfirst.data._positions import positions
from retainfirst.data._sources import Row
from retainfirst.errors import RetainFirstError, ShapeMismatch
from retainfirst.objectives import IGNORE_INDEX

__all__ = ["EncodedSet", "encode_rows"]

logger = logging.getLogger(__name__)


class EncodedSet(Dataset[Example]):
    """The tokenised rows of one source.

    Attributes:
        name: The source, for messages.
        truncated: How many of the rows were cut at the maximal length.
        dropped: How many further rows were left out because the cut left them no labelled token.
        kept: The numbers of the source's rows that are in the set, from 0.
    """

    def __init__(
        self,
        rows: Sequence[Example],
        *,
        name: str,
        truncated: int = 0,
        dropped: int = 0,
        kept: Sequence[int] | None = None,
    ) -> None:
        """Wrap rows that are already tokenised.

        Args:
            rows: At least one example; ready-made rows may have further model inputs and may be arrays or tensors
                (:func:`collate`).
            name: The source, for messages.
            truncated: See the class.
            dropped: See the class.
            kept: See the class; None: all rows.
        """
        self._rows = list(rows)
        self.kept = tuple(range(len(self._rows)) if kept is None else kept)
        self.name, self.truncated, self.dropped = name, truncated, dropped

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        return self._rows[index]

    def set_reference_log_probs(self, values: Tensor) -> None:
        """Store the reference's log-probability of each row; batches then carry it as ``reference_logps``.

        Args:
            values: Shape ``[rows]``, as ``objectives.reference_log_probs`` returns them for this set in
                order.

        Raises:
            ShapeMismatch: There is not one value a row.
        """
        if values.shape != (len(self),):
            raise ShapeMismatch(
                f"{self.name} has {len(self)} rows, but the reference log-probabilities "
                f"have shape {tuple(values.shape)}."
            )
        for row, value in zip(self._rows, values.tolist(), strict=True):
            row["reference_logps"] = value


def encode_rows(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    max_length: int,
    *,
    chat_template: str = "auto",
    name: str = "rows",
    now: datetime | None = None,
    model: Any = None,
) -> EncodedSet:
    """Tokenise rows with :func:`encode`; rows without a labelled token left are dropped with a warning.

    Args:
        rows: Rows in the four forms, in memory. Errors name the line for rows from :func:`read_rows`, else the row's
            number.
        tokenizer: A tokenizer of transformers.
        max_length: At least 2, in tokens.
        chat_template: One of :data:`CHAT_TEMPLATE_MODES`.
        name: The source, for messages.
        now: The time for chat templates that read the clock; None: 26 July 2024.
        model: The model or its config. Rows that are longer than its table of position embeddings are refused; rows
            that are longer than the positions that a rotary model was trained on are reported. None: no check.

    Returns:
        The set, with at least one row and with its counts of truncated and dropped rows.

    Raises:
        RetainFirstError: As :func:`encode`, a row is longer than the model's positions, or no row is left.
    """
    encoder = Encoder(tokenizer, max_length, chat_template, now)
    limit = positions(model) if model is not None else None
    kept: list[Example] = []
    numbers: list[int] = []
    truncated = total = long = 0
    for total, row in enumerate(rows, start=1):
        where = row.place if isinstance(row, Row) else f"{name}, row {total}"
        example, cut = encoder.encode(row, where)
        if limit is not None and len(example["input_ids"]) > limit.count:
            if limit.fixed:
                raise RetainFirstError(
                    f"{where}: {len(example['input_ids'])} tokens, but the model has {limit.count} positions. Set the maximal "
                    f"length to {limit.count} or less (--max-length {limit.count}); longer rows are then cut and counted."
                )
            long += 1
        if any(label != IGNORE_INDEX for label in example["labels"]):
            kept.append(example)
            numbers.append(total - 1)
            truncated += cut
    dropped = total - len(kept)
    if not kept:
        raise RetainFirstError(
            f"{name}: none of {total} rows has a token to forget or retain within {max_length} tokens. "
            "Raise the maximal length or shorten the prompts."
        )
    if dropped:
        logger.warning(
            "%s: dropped %d of %d rows: no labelled token within %d tokens.", name, dropped, total, max_length
        )
    if truncated:
        logger.warning("%s: truncated %d of %d rows at %d tokens.", name, truncated, total, max_length)
    if limit is not None and long:
        logger.warning(
            "%s: %d of %d rows are longer than the %d positions that the model was trained on.",
            name,
            long,
            total,
            limit.count,
        )
    return EncodedSet(kept, name=name, truncated=truncated, dropped=dropped, kept=numbers)
