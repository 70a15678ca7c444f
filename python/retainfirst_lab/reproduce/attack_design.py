"""The design of the part on attacks: rule x guard at equal forgetting, and the rules at a small learning rate.

The claims and the rule of their verdicts are in :mod:`~retainfirst_lab.reproduce.attack_claims`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from retainfirst.step import TwoTaskStep
from retainfirst_lab.reproduce.design import MAIN, Sizes, Variant
from retainfirst_lab.reproduce.facts_testbed import FactsTestbed
from retainfirst_lab.reproduce.guard_design import GUARDS, GuardCell
from retainfirst_lab.reproduce.losses import make_losses
from retainfirst_lab.reproduce.path import Batches, train_step

__all__ = ["ATTACKS", "QUANTISERS", "RATE", "SMALL_RATE", "AttackCell", "AttackPart", "forget_until_target"]

QUANTISERS = {"8 bits": (8, None), "8 bits, groups": (8, 64), "4 bits": (4, None), "4 bits, groups": (4, 64)}
"""Bits and group size; without one, each output channel has a scale."""

ATTACKS = (*QUANTISERS, "relearning")

RATE, SMALL_RATE = 3e-4, 5e-5
"""AdamW's learning rates. Small steps are those that quantisation is said to undo."""

SMALL_RATE_NEEDS = 3
"""How many times as many steps a run at the small rate may take."""


@dataclass(frozen=True)
class AttackCell(GuardCell):
    """One unlearning run whose end model is attacked.

    Attributes:
        max_steps: The last step, in place of that of the sizes.
    """

    max_steps: int

    @property
    def id(self) -> str:
        """A unique name, for files."""
        return f"{super().id}-n{self.max_steps}-attacked"

    def unlearn(self, model: Any, testbed: FactsTestbed, sizes: Sizes) -> int:
        """Unlearn in place, and return the number of steps; see :func:`forget_until_target`."""
        return forget_until_target(model, self, testbed, sizes)


@dataclass(frozen=True)
class AttackPart:
    """The part of a tier on attacks.

    Attributes:
        objectives: The forget objectives, each with and without the guard.
        at_small_rate: The objectives that are also run at the small rate, without the guard.
        variants: The combiners.
        gamma: The weight of forget; the weight of retain is 1.
        max_steps: The last step of a run at the usual rate.
    """

    objectives: tuple[str, ...] = ("ga",)
    at_small_rate: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = MAIN
    gamma: float = 4.0
    max_steps: int = 200

    def cells(self, testbed: str, seeds: Iterable[int]) -> list[AttackCell]:
        """Return every run. Seeds are the outermost loop, so that an interrupted run has complete seeds."""
        settings = [(name, RATE, guard, self.max_steps) for name in self.objectives for guard in GUARDS]
        settings += [(name, SMALL_RATE, "off", SMALL_RATE_NEEDS * self.max_steps) for name in self.at_small_rate]
        return [
            AttackCell(testbed, objective, variant.label, self.gamma, rate, seed, "adamw", guard, steps)
            for seed in seeds
            for objective, rate, guard, steps in settings
            for variant in self.variants
        ]


def forget_until_target(
    model: Any,
    cell: AttackCell,
    testbed: FactsTestbed,
    sizes: Sizes,
    look: Callable[[Optimizer, float], Any] = lambda *_: None,
) -> int:
    """Unlearn in place until the forget accuracy is at most the target, and return the number of steps.

    Args:
        model: Its frozen parameters are left alone.
        cell: The settings.
        testbed: The facts.
        sizes: Of the run.
        look: Called with the optimiser and the forget accuracy after each measurement.
    """
    losses = make_losses(cell.objective, model, testbed.forget, testbed.pad_token_id, cell.seed)
    forget, retain = (
        Batches(rows, sizes.batch_size, testbed.pad_token_id, cell.seed) for rows in (testbed.forget, testbed.retain)
    )
    step = TwoTaskStep(model, cell.combiner())
    optimizer = cell.make_optimizer(model.parameters())
    guard = cell.watch(step, optimizer)
    number = 0
    while number < cell.max_steps:
        train_step(model, step, optimizer, losses, (forget[number], retain[number]), guard)
        number += 1
        if number % sizes.evaluate_every == 0:
            accuracy = testbed.accuracy(model, "forget")
            if accuracy <= sizes.target:
                break
            look(optimizer, accuracy)
    guard.remove()
    return number
