"""The tiers that run on the small facts model: which cells, in which order, on which seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from retainfirst_lab.reproduce.bench import Bench
from retainfirst_lab.reproduce.design import (
    BASELINES,
    MAIN,
    OBJECTIVES,
    RULES,
    Cell,
    Method,
    Rule,
    Settings,
    Sizes,
    grid,
)
from retainfirst_lab.reproduce.facts_bench import FactsBench, facts_config

__all__ = ["FULL", "QUICK", "FactsTier"]


COMMON: Settings = (4.0, 3e-4)
"""Known beforehand to make the rules differ: a favourable setting, as docs/reproduction.md says."""


@dataclass(frozen=True)
class FactsTier:
    """Cells on the facts model.

    Attributes:
        name: As on the command line.
        sizes: What all cells share.
        seeds: Fresh seeds, to report on.
        development_seeds: Seeds to choose settings on; none: every rule gets the common ones.
        rules: The rules of the tables.
        rmu: Whether RMU is run as a baseline.
        gammas: Weights of forget to choose from.
        rates: Learning rates to choose from.
        sweep_gammas: Weights of forget to sweep over on the fresh seeds.
        sweep_rules: The rules of the sweep.
        control: Whether to run the disentangled control.
        people: Persons to forget; see :func:`~retainfirst_lab.reproduce.facts_bench.facts_config`.
        hidden_size: Width of the model.

    The other attributes are those of :data:`~retainfirst_lab.reproduce.tiers.Tier`.
    """

    name: str
    sizes: Sizes
    seeds: tuple[int, ...]
    development_seeds: tuple[int, ...] = ()
    rules: tuple[Rule, ...] = MAIN
    rmu: bool = False
    gammas: tuple[float, ...] = COMMON[:1]
    rates: tuple[float, ...] = COMMON[1:]
    sweep_gammas: tuple[float, ...] = ()
    sweep_rules: tuple[Rule, ...] = ()
    control: bool = False
    people: int = 24
    hidden_size: int = 128
    main_bench: str = "facts"
    common: Settings = COMMON
    jobs: int = 2
    threads: int | None = 1
    checkpoints: bool = False
    minutes: float | None = None

    def identity(self) -> dict[str, Any]:
        """Return what two runs must share for their cells to stand in one folder."""
        return {"tier": self.name, "people": self.people, "hidden_size": self.hidden_size, "sizes": asdict(self.sizes)}

    def methods(self) -> list[Method]:
        """Return bench, objective and rule of everything that the tables compare."""
        rows = [("facts", objective, rule.label) for objective in OBJECTIVES for rule in self.rules]
        return rows + ([("facts", "rmu", "sum")] if self.rmu else [])

    def development(self) -> list[Cell]:
        """Return the cells on which settings are chosen."""
        seeds = self.development_seeds
        cells = grid("facts", OBJECTIVES, self.rules, self.gammas, self.rates, seeds)
        return cells + (grid("facts", ["rmu"], MAIN[:1], self.gammas, self.rates, seeds) if self.rmu else [])

    def report(self, chosen: Mapping[Method, Settings]) -> list[Cell]:
        """Return the cells to report on; methods for which nothing was chosen get the common settings."""
        cells = []
        for seed in self.seeds:
            cells += [Cell(*method, *chosen.get(method, COMMON), seed) for method in self.methods()]
            cells += grid("facts", OBJECTIVES, self.sweep_rules, self.sweep_gammas, COMMON[1:], [seed])
            if self.control:
                cells += grid("disentangled", OBJECTIVES, MAIN, COMMON[:1], COMMON[1:], [seed])
        return list(dict.fromkeys(cells))

    def bench(self, name: str, seed: int, folder: Path) -> Bench:  # noqa: ARG002 - it is kept in the user's cache
        """Return the facts model of a seed."""
        config = facts_config(
            seed, disentangled=name == "disentangled", people=self.people, hidden_size=self.hidden_size
        )
        return FactsBench(config, self.sizes)

    def with_seeds(self, seeds: Iterable[int]) -> Self:
        """Return the tier with other fresh seeds."""
        return replace(self, seeds=tuple(seeds))


QUICK = FactsTier("quick", Sizes(), seeds=(200,))

FULL = FactsTier(
    "full",
    Sizes(),
    seeds=(200, 201, 202, 203, 204),
    development_seeds=(0, 1),
    rules=(*MAIN, *BASELINES),
    rmu=True,
    gammas=(1.0, 4.0),
    rates=(1e-4, 3e-4),
    sweep_gammas=(0.25, 1.0, 4.0, 16.0),
    sweep_rules=(*MAIN, RULES["sago_keep_retain"]),
    control=True,
)
