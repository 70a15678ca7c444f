"""Runs somebody's training script, unedited, and splits the trainers that it trains."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from retainfirst.data import collate, encode_rows, read_rows
from retainfirst.errors import RetainFirstError
from retainfirst.hf._split import check_trainer, split_trainer
from retainfirst.hf._stepping import Batch, StepInTrainer, tokenizer_of, transformers

__all__ = ["run_script"]


def run_script(
    script: str | Path,
    arguments: Sequence[str],
    *,
    class_name: str | None = None,
    retain: str | None = None,
    max_length: int = 512,
    **options: Any,
) -> None:
    """Run a Python script as ``python script arguments`` would, and split each trainer when its ``train()`` is called.

    Args:
        script: The script.
        arguments: What the script finds in ``sys.argv[1:]``.
        class_name: Split trainers of this class only, or of one that derives from it. None: all that can be split; others train
            as they do without us.
        retain: File or hub name of rows to retain on, for trainers that only forget (:func:`retainfirst.data.read_rows`).
        max_length: Length at which these rows are cut, in tokens.
        **options: For :func:`retainfirst.hf.split_trainer`.

    Raises:
        RetainFirstError: The script does not exist, a trainer of the named class cannot be split, or none was split by the
            script's end. The script's own errors, ``SystemExit`` among them, pass on.
    """
    if not Path(script).is_file():
        raise RetainFirstError(f"the script {script} does not exist")
    own, split, left = transformers.Trainer.train, list[str](), dict[str, str]()

    def train(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        name = type(trainer).__name__
        named = class_name is None or class_name in (kind.__name__ for kind in type(trainer).__mro__)
        if isinstance(trainer, StepInTrainer):
            pass  # split at an earlier train(), or by its author
        elif not named:
            left[name] = f"{name} is not the class {class_name}"
        elif reason := _reason_against(trainer):
            if class_name is not None:
                raise RetainFirstError(reason)
            left[name] = reason
        else:
            batches = None if retain is None else _retain_batches(trainer, retain, max_length)
            split_trainer(trainer, retain=batches, **options)
            split.append(name)
            if os.environ.get("RANK", "0") == "0":
                combiner = trainer.combiner.name
                print(
                    f"retainfirst: {name} takes its two gradients apart and combines them by {combiner}",
                    file=sys.stderr,
                )
        return own(trainer, *args, **kwargs)

    transformers.Trainer.train = train
    kept = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = [str(script), *arguments], str(Path(script).resolve().parent)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    finally:
        transformers.Trainer.train = own
        sys.argv, sys.path[0] = kept
    if not split:
        raise RetainFirstError(f"{script} ended, and no trainer was split: {_why(left.values(), class_name)}")


def _reason_against(trainer: Any) -> str | None:
    try:
        check_trainer(trainer)
    except RetainFirstError as error:
        return str(error)
    return None


def _why(left: Iterable[str], class_name: str | None) -> str:
    wanted = "a transformers.Trainer" if class_name is None else f"a trainer of the class {class_name}"
    return "; ".join(left) or f"it never called train() of {wanted}"


def _retain_batches(trainer: Any, source: str, max_length: int) -> Iterable[Batch]:
    """Return batches of the trainer's size from a file of rows, shuffled by the trainer's seed, alike on all processes."""
    tokenizer = tokenizer_of(trainer)
    if tokenizer is None:
        try:
            name = trainer.model.config._name_or_path
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except Exception as error:
            raise RetainFirstError(
                f"--retain: {type(trainer).__name__} has no tokenizer, and none was found beside its model ({error}); give it"
                " one, or call retainfirst.hf.split_trainer(trainer, retain=batches) in the script"
            ) from error
    rows = encode_rows(read_rows(source), tokenizer, max_length, name=source, model=trainer.model)
    ends = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)  # padded tokens are masked, so that any token will do
    pad = next(token for token in ends if token is not None)
    return DataLoader(
        rows,
        batch_size=trainer.args.per_device_train_batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(trainer.args.seed),
        collate_fn=partial(collate, pad_token_id=pad),
    )
