"""Notices that a run would replace the model of another run."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from retainfirst.errors import RetainFirstError

__all__ = ["check_output"]

_logger = logging.getLogger(__name__)

_REMEDY = "task_name='NAME_${trainer.method_args.combiner}'"


def check_output(folder: str) -> None:
    """Warn if a folder has the model of a finished run; refuse two jobs of one sweep that share a folder.

    Args:
        folder: ``trainer.args.output_dir``.

    Raises:
        RetainFirstError: Another job of the same ``--multirun`` has taken it.
    """
    output = Path(folder).resolve()
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        _claim(output)
    if (output / "trainer_state.json").exists():
        _logger.warning(
            "%s has the model of an earlier run, which this run replaces; task_name=NAME names another", output
        )


def _claim(output: Path) -> None:
    """Take a folder for this job of a sweep, by a file in the sweep's own folder, which jobs in other processes see too."""
    hydra = HydraConfig.get()
    sweep = Path(hydra.runtime.cwd, hydra.sweep.dir)
    begun = sweep / "multirun.yaml"  # Hydra writes it when a sweep starts
    if not begun.exists():
        return
    claim = sweep / ".outputs" / sha256(str(output).encode()).hexdigest()
    claim.parent.mkdir(exist_ok=True)
    mine = str(hydra.job.num)
    try:
        with claim.open("x") as file:
            file.write(mine)
    except FileExistsError:
        # One that is older than the sweep is of an earlier sweep in the same folder.
        if claim.stat().st_mtime_ns >= begun.stat().st_mtime_ns and claim.read_text() != mine:
            raise RetainFirstError(
                f"job {mine} of this sweep would replace the model of job {claim.read_text()} in {output}: give each job a folder"
                f" of its own, as in {_REMEDY}"
            ) from None
        claim.write_text(mine)
