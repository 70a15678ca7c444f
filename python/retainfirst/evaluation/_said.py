"""What generated answers hold of the right ones, and whether they are still sensible."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from retainfirst.data import Example
from retainfirst.errors import require
from retainfirst.evaluation._answers import Answer
from retainfirst.evaluation._scores import score_answers
from retainfirst.objectives import IGNORE_INDEX

__all__ = ["distinct_share", "implausibility", "matches", "repetition", "rouge_l_recall"]

_NGRAM = 3

_COUNTED = re.compile("[A-Za-z0-9]")
"""What words are made of for ROUGE-L."""


def rouge_l_recall(answers: Sequence[Answer]) -> list[float]:
    """Return each row's ROUGE-L recall: how much of the reference, in its order, the answer says.

    Definition: the length of the longest common subsequence of words, over the number of words of the reference; words are in
    lower case and stemmed, and only ASCII letters and digits count. Source: Lin (2004, W04-1013) by the library rouge-score;
    open-unlearning's ``rougeL_recall``, TOFU's "ROUGE". Range: 0 to 1; 1: all of it, in order; NaN for a reference without such
    letters and digits, such as one in Cyrillic, where open-unlearning has 0. The metric is the mean over the other rows.

    Args:
        answers: Of :func:`generate_answers`.

    Raises:
        MissingDependency: rouge-score is not installed (extra ``eval``).
    """
    logging.getLogger("absl").setLevel(logging.WARNING)  # it logs its tokenizer at every use
    scorer = require("rouge_score.rouge_scorer", "eval").RougeScorer(["rougeL"], use_stemmer=True)
    return [
        float(scorer.score(one.reference, one.text)["rougeL"].recall) if _COUNTED.search(one.reference) else math.nan
        for one in answers
    ]


def matches(answers: Sequence[Answer]) -> list[float]:
    """Return for each row 1 if the answer says the whole reference, else 0.

    Definition: the reference's words stand in the answer one after the other, whatever their case, punctuation and white
    space. Source: the usual "contains the answer" check of question answering. Range: 0 or 1; NaN for a reference of which the
    tokenizer left no text. The metric is the share of such rows.

    Args:
        answers: Of :func:`generate_answers`.
    """
    return [float(_says(one)) if one.reference else math.nan for one in answers]


def distinct_share(answers: Sequence[Answer]) -> float:
    """Return the share of different answers.

    Definition: the number of different answers over the number of rows, whatever their case, punctuation and white space.
    Range: ``1 / rows`` to 1; compare it with the share that the references have. A model that says the same to everything is
    seen here.

    Args:
        answers: Of :func:`generate_answers`, at least one.
    """
    return len({tuple(_words(one.text)) for one in answers}) / len(answers)


def repetition(answers: Sequence[Answer]) -> list[float]:
    """Return each row's share of repeated word triples within its answer.

    Definition: 1 minus the number of different triples of words over that of all triples; 0 for answers of fewer than four
    words. Source: Welleck et al. (2020, arXiv 1908.04319), "seq-rep-n". Range: 0 to 1; a sane text has hardly any. The metric
    is the mean.

    Args:
        answers: Of :func:`generate_answers`.
    """
    found = []
    for one in answers:
        words = _words(one.text)
        triples = Counter(zip(*(words[i:] for i in range(_NGRAM)), strict=False))
        found.append(1 - len(triples) / triples.total() if triples.total() > 1 else 0.0)
    return found


def implausibility(
    judge: nn.Module,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    pad_token_id: int,
    *,
    batch_size: int = 16,
    advance: Callable[[int], Any] | None = None,
) -> list[float]:
    """Return for each row how implausible another model finds the answer: gibberish has high values.

    Definition: the mean negative log-likelihood per token that the judge, usually the model before unlearning, gives to the
    answer after the row's prompt. NaN for an empty answer. Range: from 0, in nats; the judge's own answers have low values.
    This stands in for open-unlearning's gibberish classifier, which needs a model of its own. The metric is the mean over
    rows that have an answer.

    Args:
        judge: A causal language model with the same tokenizer.
        examples: The rows.
        answers: The answers to them.
        pad_token_id: The token to pad with.
        batch_size: Rows in a forward pass.
        advance: Called after each batch with its number of rows.
    """
    said = [i for i, one in enumerate(answers) if one.tokens]
    rows = [_with_answer(examples[i], answers[i].tokens) for i in said]
    scores = score_answers(judge, rows, pad_token_id, batch_size=batch_size, advance=advance)
    found = [float("nan")] * len(answers)
    for i, one in zip(said, scores, strict=True):
        found[i] = -float(one.log_probs.mean())
    return found


def _with_answer(example: Example, tokens: Sequence[int]) -> Example:
    start = next(i for i, label in enumerate(example["labels"]) if label != IGNORE_INDEX)
    ids = [*list(example["input_ids"])[:start], *tokens]
    return Example(input_ids=ids, attention_mask=[1] * len(ids), labels=[IGNORE_INDEX] * start + list(tokens))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _says(answer: Answer) -> bool:
    words, wanted = _words(answer.text), _words(answer.reference)
    if not wanted:  # a reference of signs alone
        return answer.reference in answer.text
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))
