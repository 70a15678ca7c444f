"""The names of evaluation results, which transformers looks up with a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["with_prefix"]


def with_prefix(metrics: Mapping[str, Any], prefix: str = "eval") -> dict[str, Any]:
    """Return results under their own names and also under ``<prefix>_<name>``.

    The framework's evaluators return plain names, but ``metric_for_best_model`` and ``ReduceLROnPlateau`` look for the second.
    """
    named = {name: value for name, value in metrics.items() if not name.startswith(f"{prefix}_")}
    return {f"{prefix}_{name}": value for name, value in named.items()} | dict(metrics)
