"""Attacks on an unlearned model: each changes the model or the prompts, and is measured by the same metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from retainfirst.data import EncodedSet, pad_token_id
from retainfirst.errors import require
from retainfirst.evaluation._estimates import estimate
from retainfirst.evaluation._measure import Measured, Measuring, measure, work
from retainfirst.evaluation._prompts import answers_begun, reworded
from retainfirst.evaluation._quantize import GROUP, quantized, quantized_nf4
from retainfirst.evaluation._relearn import check_relearning, relearned, split_rows
from retainfirst.evaluation._sets import EvaluationSet, check_disjoint

__all__ = ["HALF_GIVEN", "NF4", "Attack", "by_prompts", "by_quantization", "by_relearning"]

HALF_GIVEN = "half of the answer given"

NF4: Literal["nf4"] = "nf4"
"""The quantiser of bitsandbytes, beside numbers of bits."""

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


def by_quantization(bits: int | Literal["nf4"], sets: Mapping[str, EvaluationSet]) -> list[Attack]:
    """Return the attacks that quantise the linear layers.

    Args:
        bits: From 2 to 8: round to nearest, with one scale for each output channel, and for each group of 64. ``"nf4"``: by
            bitsandbytes.
        sets: The sets to measure.

    Raises:
        MissingDependency: bitsandbytes is not installed (extra ``quantize``).
    """
    if bits == NF4:
        require("bitsandbytes", "quantize")
        return [Attack("nf4, blocks of 64", "quantise", lambda model, _advance: quantized_nf4(model), [sets])]

    def change(group: int | None, model: Any, _advance: Callable[[int], Any] | None) -> AbstractContextManager[Any]:
        return quantized(model, bits, group)

    names = {None: f"{bits} bits, channels", GROUP: f"{bits} bits, groups of {GROUP}"}
    return [Attack(name, "quantise", partial(change, group), [sets]) for group, name in names.items()]


def by_relearning(
    steps: int,
    sets: Mapping[str, EvaluationSet],
    tokenizer: Any,
    *,
    unrelated: EncodedSet | None = None,
    learning_rate: float = 2e-5,
    seed: int = 0,
) -> list[Attack]:
    """Return the attacks that fine-tune: on half of the forget rows, measured on the others; on the retain rows; on other rows.

    What comes back by rows that do not have it was hidden rather than gone.

    Args:
        steps: Optimiser steps, four rows each.
        sets: The sets to measure.
        tokenizer: Of the model.
        unrelated: Tokenised rows that have nothing to do with the forget rows; None: the attack with them is left out.
        learning_rate: Of AdamW.
        seed: Of the draw of the half, and of the order.

    Raises:
        RetainFirstError: There are fewer than two forget rows, ``steps`` or ``learning_rate`` is out of its range, or a row of
            ``unrelated`` is a forget row.
    """
    shown, others = split_rows(len(sets["forget"]), seed)
    check_relearning(len(shown), steps, learning_rate)
    forget = sets["forget"]
    if unrelated is not None:
        check_disjoint(forget, unrelated, "they are not unrelated")

    def change(rows: Sequence[Any], model: Any, advance: Callable[[int], Any] | None) -> AbstractContextManager[Any]:
        pad = pad_token_id(tokenizer)
        return relearned(model, rows, pad, steps=steps, learning_rate=learning_rate, seed=seed, advance=advance)

    taught = [forget.examples[i] for i in shown]
    measured = {**sets, "forget": forget.only(others)}
    found = [Attack(f"relearned, {steps} steps", "relearn", partial(change, taught), [measured], tuple(others), steps)]
    further = {"retain": sets["retain"].examples if "retain" in sets else None, "unrelated": unrelated}
    for kind, examples in further.items():
        if examples is not None:
            rows = [examples[i] for i in range(len(examples))]
            found.append(
                Attack(f"tuned on {kind} rows, {steps} steps", "relearn", partial(change, rows), [sets], None, steps)
            )
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
            metric = "rouge_l_recall" if "rouge_l_recall" in found[0].estimates[name] else "probability"
            said = [one.estimates[name][metric].rows or () for one in found]
            most = [row.index(max(row)) for row in zip(*said, strict=True)]
            best.answers[name] = [found[variant].answers[name][i] for i, variant in enumerate(most)]
    return best
