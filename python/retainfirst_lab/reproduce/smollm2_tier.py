"""The tier on a small pretrained language model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Self

from retainfirst.errors import RetainFirstError
from retainfirst_lab.reproduce.design import MAIN, Cell, Method, Settings, Sizes, grid
from retainfirst_lab.reproduce.smollm2_rows import FILES, read_rows
from retainfirst_lab.reproduce.smollm2_testbed import SmolSizes, SmolTestbed
from retainfirst_lab.reproduce.testbed import Testbed

__all__ = ["SmolTier"]

TESTBED = "smollm2"
OBJECTIVES = ("npo", "simnpo", "ga")

LARGE_FROM = 90.0
"""From this budget on, in minutes, the larger of the two sizes is run."""


@dataclass(frozen=True)
class SmolTier:
    """SmolLM2-135M with TOFU, within a time budget.

    The other attributes are those of :data:`~retainfirst_lab.reproduce.tiers.Tier`.

    Attributes:
        minutes: The budget. Below 90 a smaller size is run. A cell that would end after the budget is not begun; the same command
            resumes with it.
        model: Folder or hub name of the model to teach; None: SmolLM2 from its package.
        data_dir: Folder with the local files of TOFU and ARC; None: the hub.

    Raises:
        RetainFirstError: The minutes are not above 0.
    """

    minutes: float | None = 150.0
    model: str | None = None
    data_dir: Path | None = None
    seeds: tuple[int, ...] = (200,)
    name: str = "smollm2"
    main_testbed: str = TESTBED
    development_seeds: tuple[int, ...] = ()
    common: Settings = (1.0, 1e-4)
    jobs: int = 1
    threads: int | None = None
    checkpoints: bool = True
    guard: None = None
    attacks: None = None

    def __post_init__(self) -> None:
        if self.minutes is None or not self.minutes > 0:
            raise RetainFirstError(f"The budget must be a number of minutes above 0, found {self.minutes}.")

    @property
    def large(self) -> bool:
        """Whether the budget allows the larger size."""
        return self.minutes is not None and self.minutes >= LARGE_FROM

    @property
    def testbed_sizes(self) -> SmolSizes:
        """Numbers of rows and questions."""
        return SmolSizes() if self.large else SmolSizes(forget_rows=12, questions=8, more_questions=16)

    @property
    def sizes(self) -> Sizes:
        """The sizes that all cells share."""
        shared = Sizes(
            batch_size=4, max_steps=40, relearn_rows=8, relearn_steps=8, relearn_every=4, relearn_rate=self.common[1]
        )  # fmt: skip
        return shared if self.large else replace(shared, max_steps=30, relearn_rows=4)

    def identity(self) -> dict[str, Any]:
        """Return the settings that two runs must share to use one output folder."""
        sizes = {"sizes": asdict(self.sizes), "testbed_sizes": asdict(self.testbed_sizes)}
        return {"tier": self.name, "model": self.model, **sizes, **self._contents()}

    def _contents(self) -> dict[str, str]:
        """Return digests of what is local: a folder may hold another model, or other rows, when a run is resumed."""
        found = {}
        if self.model is not None and (Path(self.model) / "config.json").is_file():
            found["model_contents"] = _digest(Path(self.model))
        if self.data_dir is not None:
            rows = [read_rows(name, self.data_dir) for name in FILES]
            found["data_contents"] = sha256(json.dumps(rows).encode()).hexdigest()
        return found

    def methods(self) -> list[Method]:
        """Return the methods of the 3x3 table."""
        return [(TESTBED, objective, variant.label) for objective in OBJECTIVES for variant in MAIN]

    def development(self) -> list[Cell]:
        """Return no cells: all methods use the common settings."""
        return []

    def report(self, chosen: Mapping[Method, Settings]) -> list[Cell]:  # noqa: ARG002 - nothing is chosen
        """Return the cells, most important first, for short budgets."""
        return grid(TESTBED, OBJECTIVES, MAIN, self.common[:1], self.common[1:], self.seeds)

    def testbed(self, name: str, seed: int, folder: Path) -> Testbed:  # noqa: ARG002 - all seeds share the taught model
        """Return the test bed; its model is made in ``folder`` on first use."""
        folder = folder / "smollm2"
        folder.mkdir(exist_ok=True)
        return SmolTestbed(folder, self.testbed_sizes, self.sizes.relearn_rows, self.model, self.data_dir)

    def with_seeds(self, seeds: Iterable[int]) -> Self:
        """Return the tier with these seeds, which draw the batches."""
        return replace(self, seeds=tuple(seeds))


def _digest(folder: Path) -> str:
    """Return a hash of a folder's files."""
    found = sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        found.update(file.name.encode())
        with file.open("rb") as content:
            found.update(file_digest(content, "sha256").digest())
    return found.hexdigest()
