"""The tier on a real, small language model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from retainfirst.errors import RetainFirstError
from retainfirst_lab.reproduce.bench import Bench
from retainfirst_lab.reproduce.design import MAIN, Cell, Method, Settings, Sizes, grid
from retainfirst_lab.reproduce.smollm2_bench import SmolBench, SmolSizes

__all__ = ["SmolTier"]

BENCH = "smollm2"
OBJECTIVES = ("npo", "simnpo", "ga")

LARGE_FROM = 90.0
"""Minutes from which on the larger of the two sizes is run."""


@dataclass(frozen=True)
class SmolTier:
    """SmolLM2-135M with TOFU, in a given time.

    The attributes that are not here are those of :data:`~retainfirst_lab.reproduce.tiers.Tier`.

    Attributes:
        minutes: What the run may take. Up to 90 a smaller size is run; a cell that would end later is not begun, and the same
            command run again goes on with it.
        model: Folder or hub name of the model to teach; None: SmolLM2 from its package.
        data_dir: Folder with the local files of TOFU and ARC; None: from the hub.

    Raises:
        RetainFirstError: The minutes are not above 0.
    """

    minutes: float | None = 150.0
    model: str | None = None
    data_dir: Path | None = None
    seeds: tuple[int, ...] = (200,)
    name: str = "smollm2"
    main_bench: str = BENCH
    development_seeds: tuple[int, ...] = ()
    common: Settings = (1.0, 1e-4)
    jobs: int = 1
    threads: int | None = None
    checkpoints: bool = True

    def __post_init__(self) -> None:
        if self.minutes is None or not self.minutes > 0:
            raise RetainFirstError(f"The budget must be a number of minutes above 0, found {self.minutes}.")

    @property
    def large(self) -> bool:
        """Whether the budget is enough for the larger size."""
        return self.minutes is not None and self.minutes >= LARGE_FROM

    @property
    def bench_sizes(self) -> SmolSizes:
        """How much is taught and asked."""
        return SmolSizes() if self.large else SmolSizes(forget_rows=12, questions=8, more_questions=16)

    @property
    def sizes(self) -> Sizes:
        """What all cells share."""
        shared = Sizes(
            batch_size=4, max_steps=40, relearn_rows=8, relearn_steps=8, relearn_every=4, relearn_rate=self.common[1]
        )  # fmt: skip
        return shared if self.large else replace(shared, max_steps=30, relearn_rows=4)

    def identity(self) -> dict[str, Any]:
        """Return what two runs must share for their cells to stand in one folder."""
        sizes = {"sizes": asdict(self.sizes), "bench_sizes": asdict(self.bench_sizes)}
        return {"tier": self.name, "model": self.model, **sizes}

    def methods(self) -> list[Method]:
        """Return the 3x3 table."""
        return [(BENCH, objective, rule.label) for objective in OBJECTIVES for rule in MAIN]

    def development(self) -> list[Cell]:
        """Return nothing: one setting for all."""
        return []

    def report(self, chosen: Mapping[Method, Settings]) -> list[Cell]:  # noqa: ARG002 - nothing is chosen
        """Return the cells, in the order in which a short budget shall take them."""
        return grid(BENCH, OBJECTIVES, MAIN, self.common[:1], self.common[1:], self.seeds)

    def bench(self, name: str, seed: int, folder: Path) -> Bench:  # noqa: ARG002 - all seeds share the taught model
        """Return the taught model; it is made in ``folder`` on first use."""
        folder = folder / "smollm2"
        folder.mkdir(exist_ok=True)
        return SmolBench(folder, self.bench_sizes, self.sizes.relearn_rows, self.model, self.data_dir)

    def with_seeds(self, seeds: Iterable[int]) -> Self:
        """Return the tier with other seeds: they draw the batches."""
        return replace(self, seeds=tuple(seeds))
