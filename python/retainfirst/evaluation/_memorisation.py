"""How much of the answers a model holds by teacher forcing: probability, exact memorisation, extraction strength, perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retainfirst.evaluation._scores import AnswerScores

__all__ = ["exact_memorization", "extraction_strength", "perplexity", "probability"]


def probability(scores: Sequence[AnswerScores]) -> list[float]:
    """Return each row's length-normalised probability of its answer.

    Definition: the geometric mean of the labelled tokens' probabilities, the end token among them. Source: TOFU's
    "Probability" (Maini et al. 2024, arXiv 2401.06121, section 2.2); open-unlearning's ``probability``. Range: 0 to 1; 1: the
    model gives the answer for certain. The metric is the mean over rows.

    Args:
        scores: Of :func:`score_answers`.
    """
    return [math.exp(float(one.log_probs.mean())) for one in scores]


def exact_memorization(scores: Sequence[AnswerScores]) -> list[float]:
    """Return each row's share of answer tokens that the model would choose.

    Definition: the share of labelled tokens that are the most probable ones, each after the right tokens before it; the last
    labelled token, the end token of an answer, does not count. Source: Tirumala et al. (2022, arXiv 2205.10770);
    open-unlearning's ``exact_memorization``. Range: 0 to 1; NaN for a row with one labelled token, which has no value. The
    metric is the mean over the other rows.

    Args:
        scores: Of :func:`score_answers`.
    """
    return [float(one.greedy[:-1].double().mean()) if len(one.greedy) > 1 else math.nan for one in scores]


def extraction_strength(scores: Sequence[AnswerScores]) -> list[float]:
    """Return each row's share of the answer that follows by itself once its beginning is given.

    Definition: ``1 - k / n`` with the least number ``k`` of first answer tokens after which all of the others are the most
    probable ones; ``n`` is the number of answer tokens without the last labelled one. Source: Carlini et al. (2021, arXiv
    2012.07805); open-unlearning's ``extraction_strength``. Like there ``k`` is at most ``n - 1``, so that a row of which
    nothing can be extracted has ``1 / n``, and a row with one labelled token has 0. Range: 0 to 1; 1: the prompt alone brings
    the whole answer. The metric is the mean over rows.

    Args:
        scores: Of :func:`score_answers`.
    """
    return [_extracted(one.greedy[:-1].tolist()) for one in scores]


def perplexity(scores: Sequence[AnswerScores]) -> float:
    """Return the perplexity of the labelled tokens of all rows.

    Definition: the exponential of the mean negative log-likelihood over all labelled tokens of the set. Source: Jelinek et
    al. (1977). Range: from 1; the size of the vocabulary is what a guess at each token has.

    Args:
        scores: Of :func:`score_answers`; at least one row.
    """
    tokens = sum(len(one.log_probs) for one in scores)
    total = -sum(float(one.log_probs.sum()) for one in scores) / tokens
    return math.exp(total) if total < 700 else math.inf


def _extracted(greedy: Sequence[bool]) -> float:
    if not greedy:
        return 0.0
    wrong = max((i for i, right in enumerate(greedy) if not right), default=-1)
    return 1 - min(wrong + 1, len(greedy) - 1) / len(greedy)
