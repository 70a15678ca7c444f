"""Checks of whether a run can forget, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from retainfirst.data import EncodedSet, PairedDataset
from retainfirst.errors import RetainFirstError
from retainfirst.objectives import IGNORE_INDEX
from retainfirst.unlearning._config import UnlearnConfig

__all__ = ["about_data", "about_results", "about_start"]

_LITTLE = 0.9
"""A forget measure above this share of its first value has changed little."""

_KNOWN = 0.5
"""A model knows rows well that measure so much."""

_UNKNOWN = 0.1
"""A model does not know forget rows that measure less than this share of retain rows that it knows well."""

_CHANCE = 2.0
"""So many times a guess is hardly more than one."""


def about_data(config: UnlearnConfig, pairs: PairedDataset) -> list[str]:
    """Return a warning if some rows are to be forgotten and to be retained: the same tokens, some of them labelled in both.

    Raises:
        RetainFirstError: All rows to forget are, and ``config.force`` is not set.
    """
    retained: dict[tuple[int, ...], set[int]] = {}
    for tokens, labelled in _token_rows(pairs.retain):
        retained.setdefault(tokens, set()).update(labelled)
    shared = sum(bool(retained.get(tokens, set()) & labelled) for tokens, labelled in _token_rows(pairs.forget))
    if not shared:
        return []
    text = f"{shared} of {len(pairs.forget)} rows of {pairs.forget.name} are in {pairs.retain.name} too"
    if shared == len(pairs.forget) and not config.force:
        raise RetainFirstError(f"{text}: nothing can be forgotten and retained at once. Give two sets, or --force")
    return [text]


def about_start(config: UnlearnConfig, before: Mapping[str, float], guess: float) -> list[str]:
    """Return a warning if the model does not know the forget rows, as far as the measurements before training show it.

    It certainly does not where it gives the forget answers at most a tenth of the probability of the retain answers, and either
    knows the retain rows well or does no better on the forget rows than a guess. A low probability alone proves nothing: text of
    which a model knows the content, and not the words, has one too.

    Args:
        config: The run's settings.
        before: The measurements of the forget rows and of the retain rows.
        guess: The probability of an answer whose tokens are drawn from the whole vocabulary.

    Raises:
        RetainFirstError: The model certainly does not know them, or the stop target is met already, and ``config.force`` is not
            set.
    """
    forget, retain = before.values()
    target = config.stop_at_forget_probability
    at_chance = forget <= _CHANCE * guess
    start = f"before training, the forget rows measure {forget:.3f}"
    if target is not None and forget <= target:
        text = f"{start}, which is not above stop_at_forget_probability {target}: the model does not know them"
    elif forget <= _UNKNOWN * retain and (retain >= _KNOWN or at_chance):
        text = f"{start}, and the retain rows {retain:.3f}: the model does not know what it is to forget"
    elif at_chance:
        return [f"{start}, which is hardly more than a guess at each token gives: the model seems not to know them"]
    else:
        return []
    if not config.force:
        raise RetainFirstError(
            f"{text}. Check the rows, the model and the chat template, or train nevertheless with --force"
        )
    return [text]


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


def _token_rows(rows: EncodedSet) -> Iterator[tuple[tuple[int, ...], set[int]]]:
    """Give the tokens of each row, and the positions of those that are labelled."""
    for i in range(len(rows)):
        labelled = {position for position, label in enumerate(rows[i]["labels"]) if label != IGNORE_INDEX}
        yield tuple(rows[i]["input_ids"]), labelled
