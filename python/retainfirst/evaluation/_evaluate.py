"""A whole evaluation: before, after, and attacked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from retainfirst.data import pad_token_id
from retainfirst.errors import RetainFirstError
from retainfirst.evaluation._attacks import Attack
from retainfirst.evaluation._measure import Measured, Measuring, Skipped, measure, work
from retainfirst.evaluation._sets import EvaluationSet

__all__ = ["Condition", "Evaluation", "evaluate"]


@dataclass(frozen=True)
class Condition:
    """The model in one state.

    Attributes:
        name: ``"before"``, ``"after"`` or the attack's name.
        kind: ``"before"``, ``"after"`` or the attack's kind.
        measured: Its metrics and answers.
        forget_rows: The numbers of the forget rows that were measured; None: all.
    """

    name: str
    kind: str
    measured: Measured
    forget_rows: tuple[int, ...] | None = None


@dataclass
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        conditions: In the order of the table; the one named ``"after"`` is the model itself.
        sets: The sets.
    """

    conditions: list[Condition] = field(default_factory=list)
    sets: Mapping[str, EvaluationSet] = field(default_factory=dict)

    def named(self, name: str) -> Condition | None:
        """Return the condition of that name; None if there is none."""
        return next((one for one in self.conditions if one.name == name), None)

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be measured, each once."""
        return list(dict.fromkeys(one for condition in self.conditions for one in condition.measured.skipped))

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON takes it."""
        return {
            "sets": {
                name: {
                    "source": one.source, "rows": len(one), "truncated": one.examples.truncated,
                    "dropped": one.examples.dropped,
                }
                for name, one in self.sets.items()
            },
            "conditions": [_as_dict(one) for one in self.conditions],
            "skipped": [asdict(one) for one in self.skipped],
        }  # fmt: skip


def evaluate(
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, EvaluationSet],
    *,
    before: Any = None,
    attacks: Sequence[Attack] = (),
    how: Measuring | None = None,
    progress: Callable[[str, int, int], Any] | None = None,
) -> Evaluation:
    """Measure a model, the model before unlearning, and the model under attack.

    Args:
        model: The unlearned model, on its device. It has its own weights again afterwards.
        tokenizer: Its tokenizer, with a pad token.
        sets: By name, with at least ``"forget"``.
        before: The model before unlearning, on its device; None: nothing is compared.
        attacks: Of :func:`by_quantization`, :func:`by_relearning`, :func:`by_prompts`, or your own.
        how: Batch size and further sizes. Its judge is replaced by ``before``.
        progress: Called with what is being measured, how much is done, and how much there is.

    Returns:
        The conditions in the order ``before``, ``after``, attacks.

    Raises:
        RetainFirstError: There is no forget set, the tokenizer has no pad token, a prompt leaves no position for an answer, or a
            model gives NaN.
        MissingDependency: scipy or rouge-score is not installed (extra ``eval``).
    """
    if "forget" not in sets:
        raise RetainFirstError("An evaluation needs the forget set.")
    pad_token_id(tokenizer)
    how = replace(how or Measuring(), judge=before)
    models = {"after": model} if before is None else {"before": before, "after": model}
    total = len(models) * work(sets, how) + sum(attack.work(how) for attack in attacks)
    done = 0
    found = Evaluation(sets=sets)

    def advance(name: str) -> Callable[[int], None]:
        def count(rows: int) -> None:
            nonlocal done
            done += rows
            if progress is not None:
                progress(name, done, total)

        return count

    for name, one in models.items():
        measured = measure(one, tokenizer, sets, how, advance(name))
        _refuse_broken(name, measured)
        found.conditions.append(Condition(name, name, measured))
    for attack in attacks:
        measured = attack.measure(model, tokenizer, how, advance(attack.name))
        found.conditions.append(Condition(attack.name, attack.kind, measured, attack.forget_rows))
    return found


def _refuse_broken(name: str, measured: Measured) -> None:
    """Refuse a model that gives NaN: its answers are empty, and it would pass as one that has forgotten."""
    for part, metrics in measured.estimates.items():
        rows = metrics["probability"].rows or ()
        broken = sum(map(math.isnan, rows))
        if broken:
            which = "The model before" if name == "before" else "The model"
            raise RetainFirstError(
                f"{which} gives NaN for {broken} of {len(rows)} {part} rows: its weights are broken."
            )


def _as_dict(one: Condition) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "forget_rows": one.forget_rows,
        "metrics": {
            name: {metric: asdict(value) for metric, value in metrics.items()}
            for name, metrics in one.measured.estimates.items()
        },
        "answers": {name: [asdict(answer) for answer in answers] for name, answers in one.measured.answers.items()},
    }
