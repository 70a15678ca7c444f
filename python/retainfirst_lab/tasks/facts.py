"""A small model that knows invented facts, to try unlearning on. It is trained in a minute on a CPU.

A person is three name words; a fact is ``person relation -> object``, such as ``Ada Ray Moss plays -> harp``. Some persons are to
be forgotten, the others retained. Both share name words, relations and objects, so that the forget and the retain gradient
conflict, as they do in a large model. Options add facts for evaluation: held-out ones, unrelated ones, and paraphrases.

The data are a function of a :class:`FactsConfig`. The model is a two-layer Llama, trained once and cached.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retainfirst_lab.tasks._facts_cache import cache_root, ensure
from retainfirst_lab.tasks._facts_model import accuracy, read, train
from retainfirst_lab.tasks._facts_rows import FactRow, FactsConfig, facts_data, facts_parts, taught_rows, write_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = [
    "FactRow",
    "FactsConfig",
    "accuracy",
    "cache_root",
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
    """Train a new model until it knows every fact, to forget and to retain.

    The global random state is left unchanged. On one machine the result is a function of ``config``.

    Args:
        config: Seed and sizes; ``None`` is the default.
        progress: Show a progress bar on standard error.

    Returns:
        The model in float32 and evaluation mode, and its tokenizer.

    Raises:
        RetainFirstError: The model does not know all facts after the last step; it is too small.
        MissingDependency: transformers is not installed (extra ``hf``).
    """
    return train(config or FactsConfig(), progress=progress)


def cached_folder(config: FactsConfig | None = None, *, progress: bool = False) -> Path:
    """Return the folder with model, tokenizer, ``forget.jsonl`` and ``retain.jsonl``; it is built on first use.

    The folder's name depends on the configuration and on the versions of torch and transformers. It is in ``$RETAINFIRST_CACHE``
    or, if that is not set, in the user's cache folder (on Linux ``~/.cache/retainfirst``). A damaged folder is built again.
    Several processes may call this at once.

    Args:
        config: Seed and sizes; ``None`` is the default.
        progress: Show a progress bar on standard error while the model is built.

    Returns:
        The folder. Treat it as read-only.

    Raises:
        RetainFirstError: As in ``implant``.
        MissingDependency: transformers or platformdirs is not installed (extra ``hf``).
    """
    return ensure(config or FactsConfig(), progress=progress)


def load(
    config: FactsConfig | None = None, *, progress: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return model and tokenizer from the cache; they are built on first use.

    Args:
        config: Seed and sizes; ``None`` is the default.
        progress: Show a progress bar on standard error while the model is built.

    Returns:
        The model in float32 and evaluation mode, and its tokenizer; new objects at every call.

    Raises:
        RetainFirstError: As in ``implant``.
        MissingDependency: transformers is not installed (extra ``hf``).
    """
    return read(cached_folder(config, progress=progress))
