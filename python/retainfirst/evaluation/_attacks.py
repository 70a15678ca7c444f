"""Attacks on an unlearned model: each changes the model or the prompts, and is measured by the same metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from retainfirst.data import pad_token_id
from retainfirst.evaluation._estimates import estimate
from retainfirst.evaluation._measure import Measured, Measuring, measure, work
from retainfirst.evaluation._prompts import answers_begun, reworded
from retainfirst.evaluation._quantize import GROUP, quantized
from retainfirst.evaluation._relearn import check_relearning, relearned, split_rows
from retainfirst.evaluation._sets import EvaluationSet

__all__ = ["HALF_GIVEN", "Attack", "by_prompts", "by_quantization", "by_relearning"]

HALF_GIVEN = "half of the answer given"

_SAID = ("probability", "rouge_l_recall", "matches", "exact_memorization", "extraction_strength")
"""Metrics of single rows of which the highest value over several prompts is the attacker's."""


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: The heading of its column.
        kind: ``"quantise"``, ``"relearn"`` or ``"prompt"``.
        change: Changes the model for a block.
        variants: The sets to measure; of several variants, which differ in their prompts, each row's highest value counts.
        forget_rows: The numbers of the forget rows that are measured; None: all.
        steps: How often ``change`` reports progress.
    """

    name: str
    kind: str
    change: Callable[[Any, Callable[[int], Any] | None], AbstractContextManager[Any]]
    variants: Sequence[Mapping[str, EvaluationSet]]
    forget_rows: tuple[int, ...] | None = None
    steps: int = 0

    def work(self, how: Measuring) -> int:
        """Return how far the attack moves a progress bar."""
        return self.steps + sum(work(sets, how) for sets in self.variants)

    def measure(
        self, model: Any, tokenizer: Any, how: Measuring, advance: Callable[[int], Any] | None = None
    ) -> Measured:
        """Attack a model and measure it; afterwards the model has its own weights again."""
        with self.change(model, advance):
            found = [measure(model, tokenizer, sets, how, advance) for sets in self.variants]
        return found[0] if len(found) == 1 else _highest(found)


def by_quantization(bits: int, sets: Mapping[str, EvaluationSet]) -> list[Attack]:
    """Return the attacks that quantise the linear layers: with one scale for each output channel, and for each group of 64.

    Args:
        bits: From 2 to 8.
        sets: The sets to measure.
    """

    def change(group: int | None, model: Any, _advance: Callable[[int], Any] | None) -> AbstractContextManager[Any]:
        return quantized(model, bits, group)

    names = {None: f"{bits} bits, channels", GROUP: f"{bits} bits, groups of {GROUP}"}
    return [Attack(name, "quantise", partial(change, group), [sets]) for group, name in names.items()]


def by_relearning(
    steps: int, sets: Mapping[str, EvaluationSet], tokenizer: Any, *, learning_rate: float = 2e-5, seed: int = 0
) -> list[Attack]:
    """Return the attacks that fine-tune: on half of the forget rows, measured on the others, and on the retain rows.

    The retain rows are unrelated to what was forgotten: what comes back by them was hidden rather than gone.

    Args:
        steps: Optimiser steps, four rows each.
        sets: The sets to measure.
        tokenizer: Of the model.
        learning_rate: Of AdamW.
        seed: Of the draw of the half, and of the order.

    Raises:
        RetainFirstError: There are fewer than two forget rows, or ``steps`` or ``learning_rate`` is out of its range.
    """
    shown, others = split_rows(len(sets["forget"]), seed)
    check_relearning(len(shown), steps, learning_rate)
    forget = sets["forget"]

    def change(rows: Sequence[Any], model: Any, advance: Callable[[int], Any] | None) -> AbstractContextManager[Any]:
        pad = pad_token_id(tokenizer)
        return relearned(model, rows, pad, steps=steps, learning_rate=learning_rate, seed=seed, advance=advance)

    taught = [forget.examples[i] for i in shown]
    measured = {**sets, "forget": forget.only(others)}
    found = [Attack(f"relearned, {steps} steps", "relearn", partial(change, taught), [measured], tuple(others), steps)]
    if "retain" in sets:
        rows = [sets["retain"].examples[i] for i in range(len(sets["retain"]))]
        name = f"tuned on retain rows, {steps} steps"
        found.append(Attack(name, "relearn", partial(change, rows), [sets], None, steps))
    return found


def by_prompts(
    sets: Mapping[str, EvaluationSet], tokenizer: Any, max_length: int, *, chat_template: str = "auto"
) -> list[Attack]:
    """Return the attacks that ask for the forget answers otherwise: see :func:`reworded` and :func:`answers_begun`.

    Args:
        sets: With the forget set; only its rows are measured.
        tokenizer: Of the model.
        max_length: As in :func:`make_set`.
        chat_template: Likewise.
    """
    forget = sets["forget"]
    found = [
        Attack(kind, "prompt", _unchanged, [{"forget": one} for one in variants])
        for kind, variants in reworded(forget, tokenizer, max_length, chat_template=chat_template).items()
    ]
    begun = answers_begun(forget)
    if begun is not None:
        rows, numbers = begun
        found.append(Attack(HALF_GIVEN, "prompt", _unchanged, [{"forget": rows}], numbers))
    return found


def _unchanged(model: Any, _advance: Callable[[int], Any] | None) -> AbstractContextManager[Any]:
    return nullcontext(model)


def _highest(found: Sequence[Measured]) -> Measured:
    """Return for each row the highest value over the variants, and the answers of the variant that says most."""
    best = Measured(skipped=found[0].skipped)
    for name in found[0].estimates:
        rows = {
            metric: [
                max(values) for values in zip(*(one.estimates[name][metric].rows or () for one in found), strict=True)
            ]
            for metric in _SAID
            if metric in found[0].estimates[name]
        }
        best.estimates[name] = {metric: estimate(values) for metric, values in rows.items()}
        if name in found[0].answers:
            said = [one.estimates[name]["rouge_l_recall"].rows or () for one in found]
            most = [row.index(max(row)) for row in zip(*said, strict=True)]
            best.answers[name] = [found[variant].answers[name][i] for i, variant in enumerate(most)]
    return best
