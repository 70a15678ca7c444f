"""The output folder of a run: results appear whole, and an interrupted run can be resumed."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst.files import write_json
from retainfirst.unlearning._config import UnlearnConfig
from retainfirst.unlearning._signals import on_interrupt

__all__ = ["OutputFolder", "is_whole"]

_WORK = ".unfinished"
_STARTED = "started"


class OutputFolder:
    """The folder that a run writes to.

    During the run, the settings and the checkpoints are in the hidden folder ``.unfinished``. The results are written there too
    and are moved out at the end, so that every file beside it is whole.

    Args:
        config: The run's settings.

    Attributes:
        started: When the run began, also that of the run to resume; chat templates that read the clock see this time.

    Raises:
        RetainFirstError: The folder is not empty, there is nothing to resume, or the run to resume had other settings (the text
            names them).
    """

    def __init__(self, config: UnlearnConfig) -> None:
        self._config = config
        self.path = Path(config.output)
        self.work = self.path / _WORK
        self._settings = self.work / "settings.json"
        self.started = datetime.now().replace(microsecond=0)
        # The folders that this run makes, the innermost first.
        self._made = [folder for folder in (self.path, *self.path.absolute().parents) if not folder.exists()]
        if self.path.exists() and not self.path.is_dir():
            raise RetainFirstError(f"output {self.path} is a file; name a folder")
        if config.resume:
            self._check_same()
            return
        if self._settings.is_file():
            raise RetainFirstError(
                f"output {self.path} holds an unfinished run; add --resume to go on with it, or name another folder"
            )
        if self.path.exists() and any(self.path.iterdir()):
            raise RetainFirstError(f"output {self.path} is not empty; name a new or an empty folder")

    def start(self) -> None:
        """Make the folder and write the settings."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RetainFirstError(f"output {self.path} cannot be written: {error.strerror}") from error
        write_json(self._settings, self._identity | {_STARTED: self.started.isoformat()})

    def last_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest complete checkpoint and its trainer state, the file that the trainer writes last."""
        found = [(path.parent, _read_json(path)) for path in self.work.glob("checkpoint-*/trainer_state.json")]
        whole = [(path, state) for path, state in found if state is not None]
        return max(whole, key=lambda pair: int(pair[1]["global_step"]), default=None)

    def finish(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a folder, move its files to the output folder, and delete the checkpoints."""
        results = self.work / "results"
        shutil.rmtree(results, ignore_errors=True)
        try:
            results.mkdir()
            write(results)
        except Exception as error:  # a full disk raises errors of the library that writes
            raise RetainFirstError(f"the results cannot be written to {results}: {error}") from error
        if (logs := self.work / "runs").is_dir():  # report_to is tensorboard
            logs.rename(results / "runs")
        # Ctrl-C and SIGTERM are ignored while the results move out.
        with on_interrupt(signal.SIG_IGN):
            for entry in sorted(results.iterdir(), key=lambda entry: not entry.is_dir()):
                target = self.path / entry.name
                if target.is_dir():  # a run was killed right here and then resumed
                    shutil.rmtree(target)
                entry.rename(target)
            shutil.rmtree(self.work)

    def abandon(self) -> bool:
        """After a failure, delete the run's files unless there is a checkpoint. Returns whether they were kept."""
        if self.last_checkpoint() is not None:
            return True
        shutil.rmtree(self.work, ignore_errors=True)
        with suppress(OSError):  # another run may have put something into one of them
            for folder in self._made:
                folder.rmdir()
        return False

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a resumed run must share, as JSON holds it; computed once, since it reads the whole model."""
        found: dict[str, Any] = json.loads(json.dumps(self._config.identity()))
        return found

    def _check_same(self) -> None:
        if not self._settings.is_file():
            raise RetainFirstError(f"output {self.path} holds no unfinished run to resume; start it without --resume")
        before, now = _read_json(self._settings), self._identity
        if before is None:
            raise RetainFirstError(
                f"{self._settings} is damaged, so the run cannot be resumed; remove {self.path} and start again"
            )
        with suppress(KeyError, TypeError, ValueError):  # begun by a version that did not record it
            self.started = datetime.fromisoformat(before[_STARTED])
        differing = [
            f"{name} (was {before.get(name)}, is {now[name]})" for name in now if before.get(name) != now[name]
        ]
        if differing:
            raise RetainFirstError(
                f"output {self.path} holds a run with other settings: {'; '.join(differing)}. Resume with the same, or name"
                " another folder"
            )


def is_whole(checkpoint: Path) -> bool:
    """Tell whether a checkpoint was written to its end: the trainer writes its state last."""
    return _read_json(checkpoint / "trainer_state.json") is not None


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None if it is absent or damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
