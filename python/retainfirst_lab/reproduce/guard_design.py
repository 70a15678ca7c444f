"""The design of the part on the guard: rule x guard x optimiser, each at three learning rates.

The claim under test and the rule of its verdict are in :mod:`~retainfirst_lab.reproduce.guard_claim`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from retainfirst.step import Guard, TwoTaskStep
from retainfirst_lab.reproduce.design import MAIN, Cell, Variant

__all__ = ["COMMON_RATES", "EQUAL_STEPS", "GUARDS", "OPTIMIZERS", "RATES", "Arm", "GuardCell", "GuardPart"]

OPTIMIZERS = ("adamw", "sgd")
"""AdamW without weight decay, and SGD without momentum."""

GUARDS = ("off", "enforce")
"""With ``off`` the guard measures every step and changes nothing."""

Arm = tuple[str, str, str, str]
"""The unit of comparison: objective, variant, optimiser and guard."""

EQUAL_STEPS = 48.0
"""The number of steps to the forget target at which arms are compared at equal steps."""

COMMON_RATES = {"adamw": 3e-4, "sgd": 0.08}
"""The rate that all arms of an optimiser have, for the comparison at equal rates."""

RATES: dict[tuple[str, str], tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    ("adamw", "off"): ((0.75e-4, 1.5e-4, 3e-4), (1.5e-4, 3e-4, 6e-4)),
    ("adamw", "enforce"): ((1.5e-4, 3e-4, 6e-4), (3e-4, 6e-4, 12e-4)),
    ("sgd", "off"): ((0.02, 0.04, 0.08), (0.04, 0.08, 0.16)),
    ("sgd", "enforce"): ((0.04, 0.08, 0.16), (0.04, 0.08, 0.16)),
}
"""The rates of plain addition and PCGrad, and those of SAGO, by optimiser and guard.

They are a factor of 2 apart and were placed in trials on the development seed 0, so that each arm has rates that need more than
:data:`EQUAL_STEPS` and rates that need fewer: a faster arm gets smaller rates.
"""


@dataclass(frozen=True)
class GuardCell(Cell):
    """One unlearning run whose steps the guard measures.

    Attributes:
        optimizer: One of :data:`OPTIMIZERS`.
        guard: One of :data:`GUARDS`.
    """

    optimizer: str
    guard: str

    @property
    def id(self) -> str:
        """A unique name, for files."""
        return f"{super().id}-{self.optimizer}-guard_{self.guard}"

    @property
    def arm(self) -> Arm:
        """The arm that the cell is a run of."""
        return self.objective, self.variant, self.optimizer, self.guard

    @property
    def common_states(self) -> bool:
        """No: the main cells compare all combiners at the same states."""
        return False

    @property
    def judged(self) -> bool:
        """No: lm-eval judges the main cells, whose accuracies are computed by the same function."""
        return False

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimiser with the cell's learning rate."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.learning_rate)
        return super().make_optimizer(parameters)

    def watch(self, step: TwoTaskStep, optimizer: Optimizer) -> Guard:
        """Set a guard that measures every step, and return it."""
        return step.guard(optimizer, enforce=self.guard == "enforce", every=1)


@dataclass(frozen=True)
class GuardPart:
    """The part of a tier on the guard.

    Attributes:
        objectives: The forget objectives.
        variants: The combiners.
        gamma: The weight of forget; the weight of retain is 1.
    """

    objectives: tuple[str, ...] = ("ga",)
    variants: tuple[Variant, ...] = MAIN
    gamma: float = 4.0

    def cells(self, testbed: str, seeds: Iterable[int]) -> list[GuardCell]:
        """Return every arm at each of its rates. Seeds are the outermost loop, so that an interrupted run has complete seeds."""
        return [
            GuardCell(testbed, objective, variant.label, self.gamma, rate, seed, optimizer, guard)
            for seed in seeds
            for objective in self.objectives
            for (optimizer, guard), (others, sago) in RATES.items()
            for variant in self.variants
            for rate in (sago if variant.name == "sago" else others)
        ]
