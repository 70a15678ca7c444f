"""A small model of invented facts: something to unlearn that is learned in a minute on a CPU.

A person is three name words; a fact is ``person relation -> object``, such as ``Ada Ray Moss plays -> harp``.
Some persons are to be forgotten, the others retained. Both kinds draw on the same name words, relations and
objects, so that the gradients of forgetting and retaining conflict, as they do in a large model. On request
there are also facts to measure on: retained ones that no retain file has, ones of other words altogether, and
second forms of the prompts.

The data are a pure function of a :class:`FactsConfig`; the model is a two-layer Llama, implanted once and
kept in a cache folder. See ``implant``, ``load`` and ``accuracy``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retainfirst.errors import RetainFirstError
from retainfirst_lab.tasks._facts_rows import FactRow, FactsConfig, facts_data, facts_parts, taught_rows, write_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = [
    "FactRow",
    "FactsConfig",
    "accuracy",
    "cached_folder",
    "facts_data",
    "facts_parts",
    "implant",
    "load",
    "taught_rows",
    "write_files",
]


def implant(
    config: FactsConfig | None = None, *, progress: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train a fresh model until it knows every fact, forget and retain alike.

    The global random state is left as it was found. On one machine the result is a function of ``config``.

    Args:
        config: Seed and sizes; ``None`` is the default.
        progress: Show a progress bar on standard error.

    Returns:
        The model in float32 and evaluation mode, and its tokenizer.

    Raises:
        RetainFirstError: Some facts are unknown after the largest number of steps (the model is too small).
        MissingDependency: transformers is not installed (extra ``hf``).
    """
    from retainfirst_lab.tasks._facts_model import train

    return train(config or FactsConfig(), progress=progress)


def cached_folder(config: FactsConfig | None = None, *, progress: bool = False) -> Path:
    """Return the folder with the implanted model, tokenizer, ``forget.jsonl`` and ``retain.jsonl``.

    It lies under ``$RETAINFIRST_CACHE``, or else in the user's cache folder, named by the configuration and
    the versions of torch and transformers, and is built on first use. A damaged entry is built again. Two
    processes may ask at once: each result is whole, and one of them stays.

    Args:
        config: Seed and sizes; ``None`` is the default.
        progress: Show a progress bar on standard error while the model is built.

    Returns:
        The folder. Treat it as read-only.

    Raises:
        RetainFirstError: As in ``implant``.
        MissingDependency: transformers is not installed (extra ``hf``).
    """
    from retainfirst_lab.tasks._facts_cache import ensure

    return ensure(config or FactsConfig(), progress=progress)


def load(
    config: FactsConfig | None = None, *, progress: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the implanted model and tokenizer from the cache, building them on first use.

    Args:
        config: Seed and sizes; ``None`` is the default.
        progress: Show a progress bar on standard error while the model is built.

    Returns:
        The model in float32 and evaluation mode, and its tokenizer: fresh objects at every call.

    Raises:
        RetainFirstError: As in ``implant``.
        MissingDependency: transformers is not installed (extra ``hf``).
    """
    from retainfirst_lab.tasks._facts_model import read

    return read(cached_folder(config, progress=progress))


def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[FactRow], batch_size: int = 512
) -> float:
    """Return the share of facts whose right object is the most probable of its four choices.

    Args:
        model: A causal language model; its training mode is restored afterwards.
        tokenizer: Its tokenizer; every prompt and every object must be made of known words.
        rows: The facts, at least one.
        batch_size: Rows in a forward pass.

    Returns:
        A number from 0 to 1; chance level is 0.25. A non-finite logit counts as a wrong answer.

    Raises:
        RetainFirstError: No rows, or prompts of different lengths (these are not the facts of this module).
    """
    import torch

    if not rows:
        raise RetainFirstError("accuracy needs at least one row, found none.")
    prompts = [tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in rows]
    if len({len(prompt) for prompt in prompts}) != 1:
        raise RetainFirstError("accuracy needs prompts of one length in tokens: give rows of facts_data.")
    device = next(model.parameters()).device
    tokens = torch.tensor(prompts, device=device)
    choices = torch.tensor([tokenizer.convert_tokens_to_ids(row["choices"]) for row in rows], device=device)
    answers = torch.tensor([row["answer"] for row in rows], device=device)

    was_training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            logits = model(input_ids=tokens[part]).logits[:, -1].gather(1, choices[part])
            hit = (logits.argmax(1) == answers[part]) & logits.isfinite().all(1)
            right += int(hit.sum())
    model.train(was_training)
    return right / len(rows)
