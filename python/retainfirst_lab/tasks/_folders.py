"""Output folders that appear whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from retainfirst.errors import RetainFirstError
from retainfirst.models import keep_rope_theta

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["refuse_existing", "save_portable", "whole_folder"]


def refuse_existing(folder: Path) -> None:
    """Check that a result can be put at ``folder``: it is absent, or an empty folder.

    Args:
        folder: Where the result shall go.

    Raises:
        RetainFirstError: It is a file, or a folder with something in it.
    """
    if folder.is_dir():
        if any(folder.iterdir()):
            raise RetainFirstError(f"Output folder {folder} is not empty. Give a new or an empty folder.")
    elif folder.exists():
        raise RetainFirstError(f"Output {folder} is a file. Give a new or an empty folder.")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder`` that takes its name only if the block ends well.

    Args:
        folder: The final name; absent or an empty folder.

    Yields:
        The folder to write into. It is removed if the block raises, Ctrl-C included.

    Raises:
        RetainFirstError: ``folder`` is not free.
        OSError: Another process took the name meanwhile, or the disk refuses.
    """
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's 0o700 would stay on the result
        yield draft
        if folder.is_dir():
            folder.rmdir()
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def save_portable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a Llama and its tokenizer so that transformers 4.45 to 5.x read the same model from it.

    Transformers 5 moves ``rope_theta`` into ``rope_parameters``, where 4.x does not look (it would silently
    take 10000), names a tokenizer class that 4.x does not have, and keeps the chat template in a file
    of its own. The saved JSON therefore carries both spellings.

    Args:
        model: The model, in the dtype to be stored.
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
    settings["model_input_names"] = ["input_ids", "attention_mask"]  # 4.x adds token_type_ids: Llama refuses
    if tokenizer.chat_template:
        settings["chat_template"] = tokenizer.chat_template
    tokenizer_file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
