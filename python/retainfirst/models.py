"""Loading Hugging Face models and tokenizers, with transformers 4.45 to 5.x.

A model's folder is not trusted: weights come from safetensors files only, and no Python file in it is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from retainfirst.errors import RetainFirstError, require

__all__ = [
    "check_causal",
    "check_not_quantized",
    "check_vocabulary",
    "find_device",
    "keep_rope_theta",
    "load_config",
    "load_model",
    "load_tokenizer",
]


def find_device(name: str) -> torch.device:
    """Return the device of a name such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        RetainFirstError: torch knows no such device, or this machine does not have it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RetainFirstError(f"device {name!r} cannot be used: give one such as cpu, cuda or cuda:1") from error
    backend = getattr(torch, device.type, None)
    count = 1 if device.type == "cpu" else int(getattr(backend, "device_count", lambda: 0)())
    if (device.index or 0) >= count:
        devices = f"{count or 'no'} {device.type} {'device' if count == 1 else 'devices'}"
        raise RetainFirstError(f"device {name!r} cannot be used: this machine has {devices}")
    return device


def load_config(model: str) -> Any:
    """Load a model's configuration from a folder or the hub.

    Raises:
        RetainFirstError: There is no such folder, it is empty, it holds an adapter or no model, or transformers cannot load it.
    """
    transformers = require("transformers", "hf")
    _check_folder(model)
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise RetainFirstError(
                f"{model!r} holds a PEFT adapter, not a whole model. Merge it into its base model first:"
                " peft.AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(MERGED)"
            )
        raise RetainFirstError(f"{model!r} has no config.json, so it holds no model of transformers")
    try:
        return transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RetainFirstError(f"no model configuration could be loaded from {model!r}: {_reason(error)}") from error


def load_tokenizer(model: str) -> Any:
    """Load a tokenizer from a folder or the hub.

    Raises:
        RetainFirstError: There is no such folder, it is empty, or it has no tokenizer; the text has transformers' reason.
    """
    transformers = require("transformers", "hf")
    _check_folder(model)
    try:
        return transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain exceptions for damaged files
        raise RetainFirstError(f"no tokenizer could be loaded from {model!r}: {_reason(error)}") from error


def load_model(model: str, dtype: str = "float32") -> Any:
    """Load a causal language model in a dtype, from a folder or the hub.

    Raises:
        RetainFirstError: There is no such folder, it is empty or has no safetensors file, or transformers cannot load it; the
            text has its reason.
    """
    transformers = require("transformers", "hf")
    _check_folder(model)
    _check_weights(Path(model))
    # transformers 5 renamed the argument and will drop the old name.
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    name = "dtype" if version >= (4, 56) else "torch_dtype"
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            model, use_safetensors=True, trust_remote_code=False, **{name: getattr(torch, dtype)}
        )
    except Exception as error:  # a damaged weights file raises errors of the library that reads it
        raise RetainFirstError(f"no causal language model could be loaded from {model!r}: {_reason(error)}") from error


def check_causal(name: str, model: Any) -> None:
    """Check that a model's first logits do not depend on the second token.

    Args:
        name: The model's, for the error text.
        model: A model of transformers.

    Raises:
        RetainFirstError: They do, so that it is no causal language model.
    """
    last = model.get_input_embeddings().num_embeddings - 1
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([[1, token]], device=model.device)).logits[0, 0] for token in (0, last)]
    # A causal model computes both from the same numbers; this allows for kernels that sum in another order.
    rounding = 16 * torch.finfo(logits[0].dtype).eps * logits[0].abs().max()
    if (logits[0] - logits[1]).abs().max() > rounding:
        raise RetainFirstError(
            f"{name!r} ({type(model).__name__}) is not causal: what it predicts for a token depends on later tokens. Give a"
            " causal language model; encoders such as BERT give no probability of an answer, and can be neither unlearned nor"
            " evaluated here"
        )


def check_vocabulary(model: Any, sets: Iterable[Any], pad_token_id: int) -> None:
    """Check that a model has an embedding for every token of some rows.

    Args:
        model: A model of transformers.
        sets: Tokenised sets, such as :class:`retainfirst.data.EncodedSet`.
        pad_token_id: The token to pad with.

    Raises:
        RetainFirstError: It has not.
    """
    size = model.get_input_embeddings().num_embeddings
    for examples in sets:
        largest = max(pad_token_id, *(max(examples[i]["input_ids"]) for i in range(len(examples))))
        if largest >= size:
            raise RetainFirstError(
                f"the tokenizer gives token {largest}, but the model has {size} embeddings; use the model's own tokenizer, or"
                " another --pad-token"
            )


def check_not_quantized(name: str, model: Any, reason: str) -> None:
    """Check that a model holds its weights in a floating-point dtype.

    Args:
        name: The model's, for the error text.
        model: A model of transformers.
        reason: Why it is needed, a sentence's end.

    Raises:
        RetainFirstError: It was loaded quantised, by bitsandbytes for one.
    """
    if getattr(model, "is_quantized", False):
        method = getattr(model, "quantization_method", None)
        how = f" ({getattr(method, 'value', method)})" if method else ""
        raise RetainFirstError(
            f"{name!r} is quantised{how}, and {reason}. Give the model in float32, float16 or bfloat16"
        )


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


def _check_folder(model: str) -> None:
    """Refuse a missing or empty folder at once: transformers would ask the hub for a name like it, and wait."""
    folder = Path(model)
    if folder.is_dir():
        if not any(folder.iterdir()):
            raise RetainFirstError(f"the folder {model!r} is empty")
    elif _looks_like_a_path(str(model)):
        raise RetainFirstError(f"no such folder: {model!r}")


def _check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are pickled only: loading a pickle can run code."""
    if any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors")):
        raise RetainFirstError(
            f"the folder {str(folder)!r} has its weights in pytorch_model.bin, a pickle, which can run code when it is loaded. If"
            " you trust it, convert it first:"
            " transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(CONVERTED)"
        )


def _looks_like_a_path(model: str) -> bool:
    """Tell a path from the name of a model on the hub, which is ``name`` or ``owner/name``."""
    parts = model.split("/")
    return (
        model.startswith((".", "~", "/"))
        or "\\" in model
        or len(parts) > 2
        or (len(parts) == 2 and Path(parts[0]).is_dir())
    )


def _reason(error: Exception) -> str:
    """Return transformers' reason for not loading something."""
    if "trust_remote_code" in str(error):  # its advice to set this option cannot be followed here
        return "it can only be loaded by Python code in its folder, and retainfirst runs no code of a model"
    return _first_sentence(error)


def _first_sentence(error: Exception) -> str:
    """Return an error's first line; with the second if the first breaks off there."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith((",", ":", "or", "the")) else lines[0]
