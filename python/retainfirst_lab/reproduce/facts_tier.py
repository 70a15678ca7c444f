"""The tiers on the small facts model: their cells and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from retainfirst_lab.reproduce.attack_design import AttackPart
from retainfirst_lab.reproduce.design import (
    BASELINES,
    MAIN,
    OBJECTIVES,
    VARIANTS,
    Cell,
    Method,
    Settings,
    Sizes,
    Variant,
    grid,
)
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed, facts_config
from retainfirst_lab.reproduce.guard_design import GuardPart
from retainfirst_lab.reproduce.testbed import Testbed

__all__ = ["FULL", "QUICK", "FactsTier"]


COMMON: Settings = (4.0, 3e-4)
"""A favourable setting, at which the combiners are known to differ; see docs/reproduction.md."""


@dataclass(frozen=True)
class FactsTier:
    """Cells on the facts model.

    Attributes:
        name: Its name on the command line.
        sizes: Shared by all cells.
        seeds: Fresh seeds, on which results are reported.
        development_seeds: Seeds on which settings are chosen. If empty, every combiner gets the common settings.
        variants: The combiners of the tables.
        rmu: Whether RMU is run as a baseline.
        gammas: Weights of forget to choose from.
        rates: Learning rates to choose from.
        sweep_gammas: Weights of forget of the sweep, on the fresh seeds.
        sweep_variants: The combiners of the sweep.
        control: Whether to run the control, in which forget and retain share no words.
        guard: The part on the guard; None: it has none.
        attacks: The part on attacks; None: it has none.
        people: Persons to forget; see :func:`~retainfirst_lab.reproduce.facts_testbed.facts_config`.
        hidden_size: Width of the model.

    The other attributes are those of :data:`~retainfirst_lab.reproduce.tiers.Tier`.
    """

    name: str
    sizes: Sizes
    seeds: tuple[int, ...]
    development_seeds: tuple[int, ...] = ()
    variants: tuple[Variant, ...] = MAIN
    rmu: bool = False
    gammas: tuple[float, ...] = COMMON[:1]
    rates: tuple[float, ...] = COMMON[1:]
    sweep_gammas: tuple[float, ...] = ()
    sweep_variants: tuple[Variant, ...] = ()
    control: bool = False
    guard: GuardPart | None = None
    attacks: AttackPart | None = None
    people: int = 24
    hidden_size: int = 128
    main_testbed: str = "facts"
    common: Settings = COMMON
    jobs: int = 2
    threads: int | None = 1
    checkpoints: bool = False
    minutes: float | None = None

    def identity(self) -> dict[str, Any]:
        """Return the settings that two runs must share to use one output folder."""
        return {"tier": self.name, "people": self.people, "hidden_size": self.hidden_size, "sizes": asdict(self.sizes)}

    def methods(self) -> list[Method]:
        """Return the methods that the tables compare."""
        rows = [("facts", objective, variant.label) for objective in OBJECTIVES for variant in self.variants]
        return rows + ([("facts", "rmu", "sum")] if self.rmu else [])

    def development(self) -> list[Cell]:
        """Return the cells that settings are chosen by."""
        seeds = self.development_seeds
        cells = grid("facts", OBJECTIVES, self.variants, self.gammas, self.rates, seeds)
        return cells + (grid("facts", ["rmu"], MAIN[:1], self.gammas, self.rates, seeds) if self.rmu else [])

    def report(self, chosen: Mapping[Method, Settings]) -> list[Cell]:
        """Return the cells to report. A method without chosen settings gets the common ones."""
        cells = []
        for seed in self.seeds:
            cells += [Cell(*method, *chosen.get(method, self.common), seed) for method in self.methods()]
            cells += grid("facts", OBJECTIVES, self.sweep_variants, self.sweep_gammas, self.common[1:], [seed])
            if self.control:
                cells += grid("disentangled", OBJECTIVES, MAIN, self.common[:1], self.common[1:], [seed])
        return list(dict.fromkeys(cells))

    def testbed(self, name: str, seed: int, folder: Path) -> Testbed:  # noqa: ARG002 - the model is kept in the user's cache
        """Return the facts model of a seed."""
        config = facts_config(
            seed, disentangled=name == "disentangled", people=self.people, hidden_size=self.hidden_size
        )
        return FactsTestbed(config, self.sizes)

    def with_seeds(self, seeds: Iterable[int]) -> Self:
        """Return the tier with these fresh seeds."""
        return replace(self, seeds=tuple(seeds))


QUICK = FactsTier("quick", Sizes(), seeds=(200,), guard=GuardPart(("ga",)), attacks=AttackPart(("ga",)))

FULL = FactsTier(
    "full",
    Sizes(),
    seeds=(200, 201, 202, 203, 204),
    development_seeds=(0, 1),
    variants=(*MAIN, *BASELINES),
    rmu=True,
    gammas=(1.0, 4.0),
    rates=(1e-4, 3e-4),
    sweep_gammas=(0.25, 1.0, 4.0, 16.0),
    sweep_variants=(*MAIN, VARIANTS["sago_keep_retain"]),
    control=True,
    guard=GuardPart(("ga", "npo")),
    attacks=AttackPart(("ga", "npo"), at_small_rate=("ga",)),
)
