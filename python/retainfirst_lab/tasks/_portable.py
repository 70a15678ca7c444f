"""Saving a model so that old and new versions of transformers read the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from retainfirst.models import keep_rope_theta

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["save_portable"]


def save_portable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a Llama and its tokenizer so that transformers 4.45 to 5.x read the same model.

    Transformers 5 moves ``rope_theta`` into ``rope_parameters``, which 4.x ignores (it would silently use 10000), names a
    tokenizer class that 4.x lacks, and writes the chat template to a separate file. The saved JSON has both forms.

    Args:
        model: The model, in the dtype to store.
        tokenizer: Its fast tokenizer.
        folder: An existing folder.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    keep_rope_theta(folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config.setdefault("torch_dtype", config.get("dtype", "float32"))
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    tokenizer_file = folder / "tokenizer_config.json"
    settings = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    for machine_local in ("backend", "is_local", "local_files_only"):
        settings.pop(machine_local, None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.setdefault("clean_up_tokenization_spaces", False)
    settings["model_input_names"] = ["input_ids", "attention_mask"]  # 4.x would add token_type_ids, which Llama refuses
    if tokenizer.chat_template:
        settings["chat_template"] = tokenizer.chat_template
    tokenizer_file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
