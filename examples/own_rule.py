"""A rule of your own: write it, hold it against the theorem book, and unlearn with it.

The rule takes the stronger of the two gradients in each coordinate where they agree, and the retain gradient elsewhere::

    python examples/own_rule.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import typer
from torch import Tensor

import retainfirst as rf
from retainfirst.errors import StatementViolated
from retainfirst.testing import check_combiner
from retainfirst.unlearning import UnlearnConfig, unlearn
from retainfirst_lab.tasks import facts


@rf.register("stronger")
class Stronger(rf.ElementwiseCombiner):
    """The stronger of ``alpha r`` and ``gamma f`` where their signs agree, else ``alpha r``: no coordinate opposes ``r``."""

    def formula(self, forget: Tensor, retain: Tensor) -> Tensor:
        """Return the update, element by element."""
        kept, pushed = self.alpha * retain, self.gamma * forget
        return torch.where((kept.sign() == pushed.sign()) & (pushed.abs() > kept.abs()), pushed, kept)


def check(examples: int) -> None:
    """Hold the rule against statements of the theorem book."""
    # T1: no coordinate of the update opposes the retain gradient. T2: their dot product is not negative.
    for dtype in ("float32", "bfloat16"):
        check_combiner("stronger", statements=("T1", "T2"), dtype=dtype, max_examples=examples)
    print(f"T1 and T2 hold on {examples} pairs of gradients in float32 and in bfloat16")

    # The same of the step that an optimiser makes of the update. RMSprop scales each coordinate; Adam remembers older ones.
    check_combiner("stronger", statements=("T1",), optimizer=torch.optim.RMSprop, max_examples=examples)
    print("T1 holds for the steps of RMSprop too")
    try:
        check_combiner("stronger", statements=("T1",), optimizer=torch.optim.Adam, max_examples=examples)
    except StatementViolated as error:
        print(f"but not for those of Adam: forget {error.forget.tolist()}, retain {error.retain.tolist()}")


def main(examples: int = 50, steps: int = 200) -> None:
    """Check the rule, then unlearn the built-in facts with it and with plain addition."""
    check(examples)
    folder = facts.cached_folder(progress=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("stronger", "sum"):
            config = UnlearnConfig(
                model=str(folder), forget=str(folder / "forget.jsonl"), retain=str(folder / "retain.jsonl"),
                output=str(Path(scratch, name)), combiner=name, objective="ga", gamma=4.0, learning_rate=3e-4, batch_size=32,
                max_steps=steps, stop_at_forget_probability=0.1, evaluate_every=5, save_every=0,
            )  # fmt: skip
            report = unlearn(config, label=name)
            before, after = report["before"], report["after"]
            for measured in before:
                print(
                    f"{name}: {measured} {before[measured]:.2f} -> {after[measured]:.2f}, {len(report['steps'])} steps"
                )


if __name__ == "__main__":
    typer.run(main)
