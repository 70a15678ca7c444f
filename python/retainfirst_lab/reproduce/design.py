"""The design of the reproduction: combiners, cells, and the sizes that all cells share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from retainfirst.combiners import Combiner, make_combiner
from retainfirst.step import Guard, TwoTaskStep

__all__ = ["BASELINES", "MAIN", "OBJECTIVES", "VARIANTS", "Cell", "Method", "Settings", "Sizes", "Variant", "grid"]

Method = tuple[str, str, str]
"""The unit of comparison: test bed, objective and variant."""

Settings = tuple[float, float]
"""The settings that are chosen for a method: gamma and learning rate."""

OBJECTIVES = ("ga", "npo", "simnpo")
"""The forget objectives of the 3x3 table."""


@dataclass(frozen=True)
class Variant:
    """A combiner and its scope.

    Attributes:
        name: A name of :func:`retainfirst.available_combiners`.
        scope: Of ``pcgrad`` and ``blur``; None for the others.
    """

    name: str
    scope: str | None = None

    @property
    def label(self) -> str:
        """Its name in tables and files: the combiner's name, with the scope if it is not the default one."""
        default = {"pcgrad": "tensor", "blur": "global"}.get(self.name)
        return self.name if self.scope in (None, default) else f"{self.name}_{self.scope}"

    def make(self, alpha: float, gamma: float) -> Combiner:
        """Return the combiner with these weights."""
        scope = {} if self.scope is None else {"scope": self.scope}
        return make_combiner(self.name, alpha=alpha, gamma=gamma, **scope)


MAIN = (Variant("sum"), Variant("pcgrad", "tensor"), Variant("sago"))
"""The combiners of the 3x3 table; ``sum`` is the paper's naive combination."""

BASELINES = (
    Variant("sago_keep_retain"),
    Variant("pcgrad", "module"),
    Variant("pcgrad", "block"),
    Variant("pcgrad", "global"),
    Variant("blur", "global"),
)
"""The combiners that the full tier adds."""

VARIANTS = {variant.label: variant for variant in (*MAIN, *BASELINES)}
"""All variants by label."""


@dataclass(frozen=True)
class Cell:
    """One unlearning run. With the sizes, these settings determine its result.

    Attributes:
        testbed: ``"facts"``, ``"disentangled"`` or ``"smollm2"``.
        objective: The forget objective, one of :data:`OBJECTIVES`, or ``"rmu"`` with its own retain loss.
        variant: The label of the combiner with its scope.
        gamma: The weight of forget. The weight of retain, alpha, is 1, since AdamW is invariant to a common factor of both.
        learning_rate: The constant rate of AdamW.
        seed: Draws the facts, the model that knows them, and the batches.
    """

    testbed: str
    objective: str
    variant: str
    gamma: float
    learning_rate: float
    seed: int

    @property
    def alpha(self) -> float:
        """The weight of retain."""
        return 1.0

    @property
    def id(self) -> str:
        """A unique name, for files."""
        return f"{self.testbed}-{self.objective}-{self.variant}-g{self.gamma:g}-lr{self.learning_rate:g}-s{self.seed}"

    @property
    def method(self) -> Method:
        """The method that the cell is a run of."""
        return self.testbed, self.objective, self.variant

    @property
    def settings(self) -> Settings:
        """The settings of the cell that are chosen."""
        return self.gamma, self.learning_rate

    @property
    def common_states(self) -> bool:
        """Whether all combiners are compared at the states of this cell's path."""
        return self.variant == "sum" and self.objective != "rmu"

    @property
    def judged(self) -> bool:
        """Whether lm-eval judges the end model."""
        return True

    def combiner(self) -> Combiner:
        """Return the combiner with the cell's weights."""
        return VARIANTS[self.variant].make(self.alpha, self.gamma)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimiser with the cell's learning rate."""
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=0.0)

    def watch(self, step: TwoTaskStep, optimizer: Optimizer) -> Guard | None:  # noqa: ARG002
        """Return the guard of the optimiser; None: it has none."""
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sizes:
    """The settings that all cells of a run share.

    Attributes:
        target: The forget accuracy at which results are compared; chance is 0.25.
        batch_size: Forget rows, and retain rows, per step.
        max_steps: The last step. The comparisons leave out a cell that has not reached the target by then, and count it.
        evaluate_every: Steps between two points of the path.
        relearn_rows: Forget facts on which the relearning trains.
        relearn_steps: Steps of the relearning.
        relearn_every: Steps of the relearning between two measurements on the other facts.
        relearn_rate: Learning rate of the relearning.
    """

    target: float = 0.30
    batch_size: int = 32
    max_steps: int = 200
    evaluate_every: int = 2
    relearn_rows: int = 16
    relearn_steps: int = 50
    relearn_every: int = 1
    relearn_rate: float = 3e-4


def grid(
    testbed: str, objectives: Iterable[str], variants: Iterable[Variant], gammas: Iterable[float], rates: Iterable[float],
    seeds: Iterable[int],
) -> list[Cell]:  # fmt: skip
    """Return every combination. Seeds are the outermost loop, so that an interrupted run has complete seeds."""
    objectives, variants, gammas, rates = list(objectives), list(variants), list(gammas), list(rates)
    return [
        Cell(testbed, objective, variant.label, gamma, rate, seed)
        for seed in seeds
        for objective in objectives
        for variant in variants
        for gamma in gammas
        for rate in rates
    ]
