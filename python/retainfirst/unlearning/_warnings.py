"""Checks of whether a run can forget, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping

from retainfirst.data import EncodedSet, PairedDataset
from retainfirst.errors import RetainFirstError
from retainfirst.unlearning._config import UnlearnConfig

__all__ = ["about_data", "about_results", "check_stop_target"]

_LITTLE = 0.9
"""A forget measure above this share of its first value has changed little."""


def about_data(config: UnlearnConfig, pairs: PairedDataset) -> list[str]:
    """Return a warning if some rows are to be forgotten and to be retained.

    Raises:
        RetainFirstError: All rows to forget are, and ``config.force`` is not set.
    """
    retained = _token_rows(pairs.retain)
    shared = sum(tuple(pairs.forget[i]["input_ids"]) in retained for i in range(len(pairs.forget)))
    if not shared:
        return []
    text = f"{shared} of {len(pairs.forget)} rows of {pairs.forget.name} are in {pairs.retain.name} too"
    if shared == len(pairs.forget) and not config.force:
        raise RetainFirstError(f"{text}: nothing can be forgotten and retained at once. Give two sets, or --force")
    return [text]


def check_stop_target(config: UnlearnConfig, measured: float) -> None:
    """Refuse a run whose stop target is met before its first step, unless ``config.force`` is set."""
    target = config.stop_at_forget_probability
    if target is not None and measured <= target and not config.force:
        raise RetainFirstError(
            f"before training, the forget rows measure {measured:.3f}, which is not above stop_at_forget_probability {target}:"
            " the model does not know them. Check the rows and the chat template, or train nevertheless with --force"
        )


def about_results(config: UnlearnConfig, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Return a warning if the forget measure has missed its target, or has hardly fallen."""
    name = next(iter(before))
    found, target = after[name], config.stop_at_forget_probability
    hint = "train longer, or raise learning_rate or gamma"
    if target is not None and found > target:
        return [f"the stop target was missed: {name} is {found:.3f}, above {target}; {hint}"]
    if found > _LITTLE * before[name]:
        return [f"forgetting is not done: {name} was {before[name]:.3f} and is {found:.3f}; {hint}"]
    return []


def _token_rows(rows: EncodedSet) -> set[tuple[int, ...]]:
    return {tuple(rows[i]["input_ids"]) for i in range(len(rows))}
