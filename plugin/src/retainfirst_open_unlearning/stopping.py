"""``trainer.method_args.stop_at_forget``: stopping at a forget target, measured on rows of the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from retainfirst.data import pad_token_id
from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.evaluation import AnswerProbability
from retainfirst.hf import StopAtForget

__all__ = ["make_stop"]

_HERE = "trainer.method_args.stop_at_forget"
_DEFAULTS: Mapping[str, Any] = {"every": 10, "patience": 0, "keep_best": True, "rows": 64}


def make_stop(options: Any, dataset: Any, tokenizer: Any, batch_size: int) -> StopAtForget:
    """Make the callback that the options ask for, with the mean probability of the answers as its measure.

    Args:
        options: ``at_most``, ``every``, ``patience`` and ``keep_best`` (:class:`retainfirst.hf.StopAtForget`), and ``rows``, the
            largest number of rows to measure of each set.
        dataset: The training data, with the parts ``forget`` and ``retain``.
        tokenizer: Its padding is used.
        batch_size: Rows in a forward pass.

    Raises:
        RetainFirstError: An unknown or bad option, or data without these parts; the text names it.
    """
    given = _checked(options)
    if not (hasattr(dataset, "forget") and hasattr(dataset, "retain")):
        raise RetainFirstError(
            f"{_HERE} measures rows of the training data's parts forget and retain, but {type(dataset).__name__} has none"
        )
    if tokenizer is None:
        raise RetainFirstError(f"{_HERE} needs the trainer's tokenizer, to pad the rows that it measures: give it one")
    rows = given.pop("rows")
    parts = _Parts(_Rows(dataset.forget), _Rows(dataset.retain))
    measure = AnswerProbability(parts, pad_token_id(tokenizer), rows, batch_size, across_processes=True)
    try:
        return StopAtForget(measure, **given)
    except RetainFirstError as error:
        raise RetainFirstError(f"{_HERE}.{error}") from None


def _checked(options: Any) -> dict[str, Any]:
    if OmegaConf.is_config(options):
        options = OmegaConf.to_container(options, resolve=True)
    if not isinstance(options, Mapping) or "at_most" not in options:
        raise RetainFirstError(f"{_HERE}: {options!r} has no at_most; write {{at_most: 0.1}}, the forget target")
    known = ["at_most", *_DEFAULTS]
    for name in options:
        if name not in known:
            raise RetainFirstError(f"{_HERE} has no option {name!r}. {did_you_mean(str(name), known)}")
    given = {**_DEFAULTS, **options}
    if not isinstance(given["rows"], int) or isinstance(given["rows"], bool) or given["rows"] < 1:
        raise RetainFirstError(f"{_HERE}.rows must be a whole number of at least 1, not {given['rows']!r}")
    return given


class _Rows:
    """The rows of a data set of the framework; of DPO's pairs of answers, the ones to forget."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row: Mapping[str, Any] = self._rows[index]
        found: Mapping[str, Any] = row.get("original", row)
        return found


@dataclass
class _Parts:
    forget: _Rows
    retain: _Rows
