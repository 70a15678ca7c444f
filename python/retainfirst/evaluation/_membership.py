"""Membership inference: can one tell by the model's losses which rows it was trained on?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retainfirst.errors import RetainFirstError, require
from retainfirst.evaluation._scores import AnswerScores

__all__ = ["membership_auc", "min_k_scores", "row_losses"]


def row_losses(scores: Sequence[AnswerScores]) -> list[float]:
    """Return each row's mean negative log-likelihood per labelled token: the statistic of the loss attack.

    Source: Yeom et al. (2018, arXiv 1709.01604); open-unlearning's ``mia_loss``. Range: from 0, in nats; higher: less likely
        a member.

    Args:
        scores: Of :func:`score_answers`.
    """
    return [-float(one.log_probs.mean()) for one in scores]


def min_k_scores(scores: Sequence[AnswerScores], k: float = 0.4) -> list[float]:
    """Return each row's mean negative log-likelihood over its least probable tokens: the statistic of Min-K% Prob.

    Definition: over the share ``k`` of the labelled tokens, rounded down and at least one, without the last labelled token; 0
    for a row with one labelled token. Source: Shi et al. (2024, arXiv 2310.16789); open-unlearning's ``mia_min_k``, whose
    configurations for TOFU and MUSE have 0.4. Range: from 0, in nats; higher: less likely a member.

    Args:
        scores: Of :func:`score_answers`.
        k: Above 0, at most 1.

    Raises:
        RetainFirstError: ``k`` is out of its range.
    """
    if not 0 < k <= 1:
        raise RetainFirstError(f"k must be above 0 and at most 1, found {k}.")
    found = []
    for one in scores:
        least = np.sort(one.log_probs[:-1].numpy())
        found.append(-float(least[: max(1, int(len(least) * k))].mean()) if len(least) else 0.0)
    return found


def membership_auc(forget: Sequence[float], held_out: Sequence[float]) -> float:
    """Return how well a statistic tells rows that were to be forgotten from rows that the model never saw.

    Definition: the probability that a forget row has a lower value than a held-out row, ties counting half, which is the area
    under the ROC curve. Source: open-unlearning's ``mia_auc``. Range: 0 to 1; 0.5: they cannot be told apart; 1: the forget
    rows still look like training rows; near 0: they were pushed so far that they stand out.

    Args:
        forget: Values of the forget rows, at least one; higher means less likely a member.
        held_out: Values of rows of the same kind that the model was not trained on, at least one.

    Raises:
        MissingDependency: scipy is not installed (extra ``eval``).
    """
    statistics = require("scipy.stats", "eval").mannwhitneyu(held_out, forget, method="asymptotic").statistic
    return float(statistics) / (len(forget) * len(held_out))
