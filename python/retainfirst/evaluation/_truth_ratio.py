"""The truth ratio: wrong answers against the right one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["forget_truth_ratio", "retain_truth_ratio", "truth_ratio"]

_EPSILON = 1e-10
"""Of open-unlearning, against a division by zero."""


def truth_ratio(right: Sequence[float], wrong: Sequence[Sequence[float]]) -> list[float]:
    """Return each row's probability of its wrong answers over that of its right answer.

    Definition: ``exp(-mean loss of the wrong answers) / exp(-loss of the right answer)``, where a loss is the mean negative
    log-likelihood per token. In TOFU the right answer is a paraphrased one. Source: Maini et al. (2024, arXiv 2401.06121,
    section 2.2); open-unlearning's ``truth_ratio``. Range: from 0; 1: the model cannot tell them apart.

    Args:
        right: The loss of each row's right answer.
        wrong: The losses of each row's wrong answers, at least one a row.
    """
    return [
        float(np.exp(-np.mean(losses)) / (np.exp(-loss) + _EPSILON)) for loss, losses in zip(right, wrong, strict=True)
    ]


def forget_truth_ratio(ratios: Sequence[float]) -> list[float]:
    """Return each forget row's value: ``min(ratio, 1 / ratio)``. Range: 0 to 1; 1: it cannot tell right from wrong (forgotten).

    Source: open-unlearning's ``closer_to_1_better``. The metric is the mean over rows.

    Args:
        ratios: Of :func:`truth_ratio`.
    """
    return [min(ratio, 1 / (ratio + _EPSILON)) for ratio in ratios]


def retain_truth_ratio(ratios: Sequence[float]) -> list[float]:
    """Return each other row's value: ``max(0, 1 - ratio)``. Range: 0 to 1; 1: the right answer is far more probable (known).

    Source: TOFU's model utility; open-unlearning's ``true_better``. The metric is the mean over rows.

    Args:
        ratios: Of :func:`truth_ratio`.
    """
    return [max(0.0, 1 - ratio) for ratio in ratios]
