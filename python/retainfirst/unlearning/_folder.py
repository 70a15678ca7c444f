"""The output folder of a run: nothing half written, and enough kept to go on after an interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from retainfirst.errors import RetainFirstError
from retainfirst.unlearning._config import UnlearnConfig

__all__ = ["OutputFolder"]

_WORK = ".unfinished"


class OutputFolder:
    """The folder that a run writes to.

    Until the run is done all its files lie in the hidden folder ``.unfinished``: the settings and the checkpoints. The results
    are made there too and moved out at the very end, so what a reader finds in the output folder is whole.

    Args:
        config: The run's settings.

    Raises:
        RetainFirstError: The folder holds something already; or there is nothing to resume; or the run to resume had other
            settings (each is named).
    """

    def __init__(self, config: UnlearnConfig) -> None:
        self.path = Path(config.output)
        self.work = self.path / _WORK
        self._settings = self.work / "settings.json"
        self._made = not self.path.exists()
        if self.path.exists() and not self.path.is_dir():
            raise RetainFirstError(f"output {self.path} is a file; name a folder")
        if config.resume:
            self._check_same(config)
            return
        if self._settings.is_file():
            raise RetainFirstError(
                f"output {self.path} holds an unfinished run; add --resume to go on with it, or name another folder"
            )
        if self.path.exists() and any(self.path.iterdir()):
            raise RetainFirstError(f"output {self.path} is not empty; name a new or an empty folder")

    def start(self, config: UnlearnConfig) -> None:
        """Create the folder and write down the settings."""
        self.work.mkdir(parents=True, exist_ok=True)
        self._settings.write_text(json.dumps(config.identity(), indent=2))

    def last_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint: the trainer writes its state file last."""
        whole = [path.parent for path in self.work.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def finish(self, write: Callable[[Path], None]) -> None:
        """Have ``write`` fill a folder, then move its files out and drop the checkpoints."""
        results = self.work / "results"
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        write(results)
        if (logs := self.work / "runs").is_dir():  # the trainer's own, where report_to is tensorboard
            logs.rename(results / "runs")
        for entry in sorted(results.iterdir()):
            entry.rename(self.path / entry.name)
        shutil.rmtree(self.work)

    def abandon(self) -> bool:
        """After a failure: keep the folder if it holds a checkpoint, else leave no trace. Returns whether it was kept."""
        if self.last_checkpoint() is not None:
            return True
        shutil.rmtree(self.path if self._made else self.work, ignore_errors=True)
        return False

    def _check_same(self, config: UnlearnConfig) -> None:
        if not self._settings.is_file():
            raise RetainFirstError(f"output {self.path} holds no unfinished run to resume; start it without --resume")
        before, now = json.loads(self._settings.read_text()), json.loads(json.dumps(config.identity()))
        differing = [
            f"{name} (was {before.get(name)}, is {now[name]})" for name in now if before.get(name) != now[name]
        ]
        if differing:
            raise RetainFirstError(
                f"output {self.path} holds a run with other settings: {'; '.join(differing)}. Resume with the same, or name"
                " another folder"
            )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True
