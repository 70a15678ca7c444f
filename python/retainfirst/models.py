"""Loading Hugging Face models and tokenizers, with transformers 4.45 to 5.x (extra ``hf``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from retainfirst.errors import RetainFirstError, require

__all__ = ["keep_rope_theta", "load_model", "load_tokenizer"]


def load_tokenizer(model: str) -> Any:
    """Load a tokenizer from a folder or the hub.

    Raises:
        RetainFirstError: It cannot be loaded; the text has transformers' reason.
    """
    transformers = require("transformers", "hf")
    try:
        return transformers.AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise RetainFirstError(f"no tokenizer could be loaded from {model!r}: {_first_line(error)}") from error


def load_model(model: str, dtype: str = "float32") -> Any:
    """Load a causal language model in a dtype, from a folder or the hub.

    Raises:
        RetainFirstError: It cannot be loaded; the text has transformers' reason.
    """
    transformers = require("transformers", "hf")
    # transformers 5 renamed the argument and will drop the old name.
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    name = "dtype" if version >= (4, 56) else "torch_dtype"
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(model, **{name: getattr(torch, dtype)})
    except Exception as error:  # a damaged weights file raises errors of the library that reads it
        raise RetainFirstError(
            f"no causal language model could be loaded from {model!r}: {_first_line(error)}"
        ) from error


def keep_rope_theta(folder: Path) -> None:
    """Copy the rotary base in a saved model's ``config.json`` to the place where transformers 4 reads it.

    transformers 5 saves it in ``rope_parameters`` only, and transformers 4 would silently use 10000.

    Args:
        folder: A folder that ``save_pretrained`` has written.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope and "rope_theta" not in config:
        file.write_text(json.dumps({**config, "rope_theta": rope["rope_theta"]}, indent=2) + "\n", encoding="utf-8")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
