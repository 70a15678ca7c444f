"""Data sets, collator and pairs of the framework that do as those of the authors' fork (sustech-nlp/SAGO), and RWKU's data sets.

Where the two differ, for the authors' experiments:

- The fork tokenises each text by itself and drops the last, incomplete chunk; the framework tokenises all texts as one and keeps
  that chunk.
- The fork draws the partner of a row differently on each process; the framework draws the same on all.
- The fork's collator attends to the last token of a row that is padded on the left, also where that is the padding token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst_open_unlearning.rwku_data import Passages, Probes

__all__ = ["make_collator", "make_dataset", "make_pairs"]


class TextByText:
    """Goes before the framework's ``PretrainingDataset``: cuts texts into chunks of ``max_length`` tokens as the fork does."""

    drawn_by_rank = True

    def _chunk_raw_text(self, raw_text: Sequence[str]) -> list[str]:
        me: Any = self
        tokens = [
            token for text in raw_text for token in me.tokenizer(text + "\n\n", add_special_tokens=False)["input_ids"]
        ]
        count = len(tokens) // me.max_length
        if not count:
            raise RetainFirstError(
                f"{type(self).__name__}: the texts have {len(tokens)} tokens, fewer than one chunk of max_length={me.max_length};"
                " set a smaller max_length"
            )
        cuts = (tokens[i * me.max_length : (i + 1) * me.max_length] for i in range(count))
        return [me.tokenizer.decode(cut, skip_special_tokens=True) for cut in cuts]


class AttendsToLastToken:
    """Goes before the framework's collator: the padding token is often the end token, which then ends a row masked."""

    def __call__(self, instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows, or pairs of rows: the framework calls this again for each part of a pair."""
        me: Any = self
        batch: dict[str, Any] = super().__call__(instances)  # type: ignore[misc]
        if me.padding_side == "left" and "attention_mask" in batch:
            batch["attention_mask"][:, -1] = True
        return batch


_DATASETS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "RetainFirstPretrainingDataset": ((TextByText,), "PretrainingDataset"),
    "RetainFirstRWKUPassages": ((Passages, TextByText), "PretrainingDataset"),
    "RetainFirstRWKUProbes": ((Probes,), "QADataset"),
}

_COLLATORS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "RetainFirstDataCollatorForSupervisedDataset": ((AttendsToLastToken,), "DataCollatorForSupervisedDataset"),
}


def make_dataset(name: str, registry: Mapping[str, Any]) -> type:
    """Make a data set handler on one of the framework's.

    Args:
        name: ``RetainFirstPretrainingDataset``: the framework's, with the fork's chunks and draws.
            ``RetainFirstRWKUPassages``: the same on RWKU's passages. ``RetainFirstRWKUProbes``: the framework's ``QADataset`` on
            RWKU's probes, with the prompts as the authors of SAGO give them (the cue at the end of the question).
        registry: The framework's handlers by name.

    Raises:
        RetainFirstError: No such name, or the framework has no such handler.
    """
    made = _make(name, registry, _DATASETS, "data set handler")
    if issubclass(made, TextByText) and not hasattr(registry["PretrainingDataset"], "_chunk_raw_text"):
        raise RetainFirstError(
            f"{name}: the PretrainingDataset of this open-unlearning has no _chunk_raw_text to replace"
        )
    return made


def make_collator(name: str, registry: Mapping[str, Any]) -> type:
    """Make ``RetainFirstDataCollatorForSupervisedDataset``: the framework's collator with the fork's mask of left padding.

    Args:
        name: That name.
        registry: The framework's collators by name.

    Raises:
        RetainFirstError: Another name, or the framework has no such collator.
    """
    return _make(name, registry, _COLLATORS, "collator")


def make_pairs(base: Any) -> type:
    """Make a ``ForgetRetainDataset`` that draws the partner of a row by process, from data sets that are ``drawn_by_rank``.

    The draws are the fork's: a seed from torch's generator, which all processes share, plus the rank.

    Args:
        base: The framework's class, which pairs all other data sets as before.
    """

    def getitem(self: Any, index: int) -> Any:
        drawn = {"forget": "retain", "retain": "forget"}.get(self.anchor, "")
        partners: Any = getattr(self, drawn, None)
        if not getattr(partners, "drawn_by_rank", False):
            return base.__getitem__(self, index)
        seed = int(torch.empty((), dtype=torch.int64).random_()) + _rank()
        partner = torch.randint(0, len(partners), (1,), generator=torch.Generator().manual_seed(seed)).item()
        return {self.anchor: getattr(self, self.anchor)[index], drawn: partners[partner]}

    return type(f"RetainFirst{base.__name__}", (base,), {"__module__": __name__, "__getitem__": getitem})


def _rank() -> int:
    """Return this process's rank; a data loader's worker that is a new process knows it from the launcher's environment."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def _make(name: str, registry: Mapping[str, Any], kinds: Mapping[str, tuple[tuple[type, ...], str]], kind: str) -> type:
    if name not in kinds:
        raise RetainFirstError(f"retainfirst has no {kind} {name!r}. {did_you_mean(name, kinds)}")
    ours, base = kinds[name]
    if base not in registry:
        raise RetainFirstError(f"{name}: this open-unlearning has no {kind} {base!r} to build on")
    return type(name, (*ours, registry[base]), {"__module__": __name__, "__doc__": f"{base}, with retainfirst's part."})
