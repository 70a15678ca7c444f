"""All metrics of one model on all sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retainfirst.data import pad_token_id
from retainfirst.evaluation._answers import Answer, generate_answers
from retainfirst.evaluation._estimates import Estimate, estimate, estimate_auc, estimate_perplexity
from retainfirst.evaluation._membership import membership_auc, min_k_scores, row_losses
from retainfirst.evaluation._memorisation import exact_memorization, extraction_strength, perplexity, probability
from retainfirst.evaluation._said import distinct_share, implausibility, matches, repetition, rouge_l_recall
from retainfirst.evaluation._scores import AnswerScores, score_answers
from retainfirst.evaluation._sets import EvaluationSet
from retainfirst.evaluation._truth_ratio import forget_truth_ratio, retain_truth_ratio, truth_ratio

__all__ = ["METRICS", "Measured", "Measuring", "Skipped", "measure", "work"]

METRICS: Mapping[str, str] = {
    "probability": "probability of the answer",
    "rouge_l_recall": "ROUGE-L recall of the greedy answer",
    "matches": "greedy answers that hold the right one",
    "exact_memorization": "exact memorisation",
    "extraction_strength": "extraction strength",
    "truth_ratio": "truth ratio",
    "perplexity": "perplexity",
    "distinct_share": "share of different answers",
    "repetition": "repetition within an answer",
    "implausibility": "implausibility to the model before",
    "mia_loss": "membership by loss, AUC",
    "mia_min_k": "membership by Min-K%, AUC",
}
"""The metrics in the order of the tables, with their titles."""


@dataclass(frozen=True)
class Measuring:
    """How to measure.

    Attributes:
        batch_size: Rows in a forward pass.
        max_new_tokens: The largest number of tokens of an answer.
        min_k: The share of tokens of Min-K%.
        judge: The model before unlearning, for :func:`implausibility`; None: not measured.
    """

    batch_size: int = 16
    max_new_tokens: int = 200
    min_k: float = 0.4
    judge: Any = None


@dataclass(frozen=True)
class Skipped:
    """A metric that could not be measured on a set, and why."""

    metric: str
    set: str
    reason: str


@dataclass
class Measured:
    """The metrics of one model.

    Attributes:
        estimates: By set and metric.
        answers: The greedy answers by set, where its rows have prompts.
        skipped: What could not be measured, and why.
    """

    estimates: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def measure(
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, EvaluationSet],
    how: Measuring | None = None,
    advance: Callable[[int], Any] | None = None,
) -> Measured:
    """Measure every metric that the rows allow.

    Args:
        model: A causal language model, on its device.
        tokenizer: Its tokenizer, with a pad token.
        sets: The sets by name.
        how: Sizes and the judge.
        advance: Called with numbers of rows, :func:`work` of them in all.

    Returns:
        The estimates, the answers, and what was left out.

    Raises:
        RetainFirstError: A prompt leaves no position for an answer.
        MissingDependency: scipy or rouge-score is not installed (extra ``eval``).
    """
    how = how or Measuring()
    found = Measured()
    scores = {}
    for name, one in sets.items():
        scores[name] = _score(model, tokenizer, one.examples, how, advance)
        found.estimates[name] = _by_teacher_forcing(scores[name])
        _add_truth_ratio(found, model, tokenizer, one, how, advance)
        _add_answers(found, model, tokenizer, one, how, advance)
    _add_membership(found, sets, scores, how)
    return found


def work(sets: Mapping[str, EvaluationSet], how: Measuring) -> int:
    """Return the number of rows that :func:`measure` gives to the model: the length of its progress bar."""
    passes = 2 if how.judge is None else 3
    return sum(
        len(one) * (passes if one.prompted else 1) + len(one.right) + sum(map(len, one.wrong)) for one in sets.values()
    )


def _score(
    model: Any, tokenizer: Any, examples: Any, how: Measuring, advance: Callable[[int], Any] | None
) -> list[AnswerScores]:
    return score_answers(model, examples, pad_token_id(tokenizer), batch_size=how.batch_size, advance=advance)


def _by_teacher_forcing(scores: Sequence[AnswerScores]) -> dict[str, Estimate]:
    tokens = [len(one.log_probs) for one in scores]
    return {
        "probability": estimate(probability(scores)),
        "exact_memorization": estimate(exact_memorization(scores)),
        "extraction_strength": estimate(extraction_strength(scores)),
        "perplexity": estimate_perplexity(perplexity(scores), row_losses(scores), tokens),
    }


def _add_truth_ratio(
    found: Measured,
    model: Any,
    tokenizer: Any,
    one: EvaluationSet,
    how: Measuring,
    advance: Callable[[int], Any] | None,
) -> None:
    if not one.wrong:
        found.skipped.append(Skipped("truth_ratio", one.name, "some of its rows have no 'perturbed_answer'"))
        return
    right = row_losses(_score(model, tokenizer, one.right, how, advance))
    flat = iter(row_losses(_score(model, tokenizer, [row for rows in one.wrong for row in rows], how, advance)))
    ratios = truth_ratio(right, [[next(flat) for _ in rows] for rows in one.wrong])
    forgets = one.name in ("forget", "paraphrased")
    found.estimates[one.name]["truth_ratio"] = estimate(
        forget_truth_ratio(ratios) if forgets else retain_truth_ratio(ratios)
    )


def _add_answers(
    found: Measured,
    model: Any,
    tokenizer: Any,
    one: EvaluationSet,
    how: Measuring,
    advance: Callable[[int], Any] | None,
) -> None:
    estimates = found.estimates[one.name]
    if not one.prompted:
        for metric in ("rouge_l_recall", "matches", "distinct_share", "repetition", "implausibility"):
            found.skipped.append(Skipped(metric, one.name, "rows of the form {text} have no prompt to answer"))
        return
    answers = generate_answers(
        model, tokenizer, one.examples, max_new_tokens=how.max_new_tokens, batch_size=how.batch_size, advance=advance
    )
    found.answers[one.name] = answers
    _add_rows(
        found, one.name, "rouge_l_recall", rouge_l_recall(answers), "no answer has one of the letters a-z or a digit"
    )
    _add_rows(found, one.name, "matches", matches(answers), "the tokenizer leaves no text of the answers")
    estimates["distinct_share"] = Estimate(distinct_share(answers), None, None, len(answers))
    estimates["repetition"] = estimate(repetition(answers))
    if how.judge is None:
        found.skipped.append(Skipped("implausibility", one.name, "it needs the model before (--before)"))
        return
    rows = [one.examples[i] for i in range(len(one))]
    judged = implausibility(
        how.judge, rows, answers, pad_token_id(tokenizer), batch_size=how.batch_size, advance=advance
    )
    _add_rows(found, one.name, "implausibility", judged, "all answers are empty")


def _add_rows(found: Measured, name: str, metric: str, rows: Sequence[float], reason: str) -> None:
    """Add a metric of which some rows may have no value; if none has, say why."""
    if all(map(math.isnan, rows)):
        found.skipped.append(Skipped(metric, name, reason))
    else:
        found.estimates[name][metric] = estimate(rows)


def _add_membership(
    found: Measured, sets: Mapping[str, EvaluationSet], scores: Mapping[str, Sequence[AnswerScores]], how: Measuring
) -> None:
    reason = None
    if "forget" not in sets or "held_out" not in sets:
        reason = "it needs rows that the model never saw (--held-out)"
    elif sets["forget"].forms != sets["held_out"].forms:
        forms = (", ".join(sorted(sets[name].forms)) for name in ("forget", "held_out"))
        reason = "the forget rows have the form {}, the held-out rows {}: losses cannot be compared".format(*forms)
    if reason is not None:
        found.skipped += [Skipped(metric, "forget", reason) for metric in ("mia_loss", "mia_min_k")]
        return
    forget, held_out = scores["forget"], scores["held_out"]
    statistics = {
        "mia_loss": (row_losses(forget), row_losses(held_out)),
        "mia_min_k": (min_k_scores(forget, how.min_k), min_k_scores(held_out, how.min_k)),
    }
    for metric, pair in statistics.items():
        found.estimates["forget"][metric] = estimate_auc(membership_auc(*pair), *pair)
