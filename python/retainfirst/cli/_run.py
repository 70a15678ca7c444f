"""``retainfirst run``: somebody's training script, unedited, with two gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retainfirst.cli._options import name_value_pairs
from retainfirst.errors import RetainFirstError, require

__all__ = ["SCRIPT_SETTINGS", "run"]

SCRIPT_SETTINGS: dict[str, Any] = {"allow_interspersed_args": False}
"""Settings of the command: what follows the script is the script's."""

Option = typer.Option


def run(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="A Python script that trains by a Trainer.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="The script's own arguments.")
    ] = None,
    class_name: Annotated[
        str | None,
        Option("--class", metavar="NAME", help="Split trainers of this class only. Default: all that can be split."),
    ] = None,
    combiner: Annotated[str, Option(help="sum, sago, pcgrad, ...; see the guide.")] = "sago",
    combiner_option: Annotated[
        list[str] | None, Option(metavar="NAME=VALUE", help="An option of the combiner, such as gamma=0.5; repeatable.")
    ] = None,
    parts: Annotated[
        str | None,
        Option(
            help="Which part of a batch is for which task: names in order, such as forget,forget,retain; by key, such as "
            "bad=forget,good=retain; or a function, path/to/file.py:name. Default: by the keys forget and retain, or of two "
            "parts the first is forget."
        ),
    ] = None,
    retain: Annotated[
        str | None, Option(help="File or hub name of rows to retain on, for a trainer that only forgets.")
    ] = None,
    max_length: Annotated[int, Option(min=2, help="Length at which the rows of --retain are cut, in tokens.")] = 512,
    where: Annotated[
        str | None, Option(help="Combine only parameters whose names match this regular expression by the combiner.")
    ] = None,
    guard: Annotated[str, Option(help="off, measure or enforce: what to do about the optimiser's steps.")] = "off",
    offload: Annotated[str | None, Option(help="cpu: keep the idle task's gradients in host memory.")] = None,
) -> None:
    """Run an unedited training script, and combine the forget and the retain gradient of its trainers.

    Each transformers.Trainer with a compute_loss of its own is split when the script calls its train(): its one loss is sent back
    through the forget outputs and the retain outputs apart (see retainfirst.hf.split_trainer). What cannot be split is refused
    by name. If no trainer was split, the command says why and exits with 2.

    With several processes: torchrun --nproc_per_node 2 -m retainfirst.run [OPTIONS] SCRIPT [ARGUMENT]..., and the same after
    accelerate launch.

    Examples:

        retainfirst run train.py --lr 1e-5

        retainfirst run --class NPOTrainer --combiner pcgrad --parts forget,forget,retain train.py --lr 1e-5
    """  # noqa: D412 - the command's help text, not Google sections
    require("transformers", "hf")
    from retainfirst.hf import run_script

    pairs = name_value_pairs("--combiner-option", combiner_option or [])
    if clash := pairs.keys() & {"where", "guard", "offload", "stream", "parts", "combiner", "retain"}:
        raise RetainFirstError(f"--combiner-option {min(clash)}=...: this is no option of a combiner")
    run_script(
        script,
        arguments or [],
        class_name=class_name,
        retain=retain,
        max_length=max_length,
        combiner=combiner,
        parts=parts,
        where=where,
        guard=guard,
        offload=offload,
        **pairs,
    )
