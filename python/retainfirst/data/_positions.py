"""The number of positions that a model has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Positions", "positions"]

_COUNTS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")
_ROTARY = ("rope_parameters", "rope_theta", "rope_scaling", "rotary_emb_base")


@dataclass(frozen=True)
class Positions:
    """How long a row a model takes.

    Attributes:
        count: Tokens.
        fixed: Whether a longer row is an error, as with a table of position embeddings. Rotary embeddings are computed
            for any position, but the model was not trained on those beyond.
    """

    count: int
    fixed: bool


def positions(model: Any) -> Positions | None:
    """Read how long a row a model takes from its config.

    Args:
        model: A model of transformers or PEFT, or a config. Virtual tokens of prompt tuning take positions too.

    Returns:
        None if the config names no limit.
    """
    config = getattr(model, "config", model)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    counts = [getattr(config, name, None) for name in _COUNTS]
    count = next((count for count in counts if isinstance(count, int) and count > 0), None)
    if count is None:
        return None
    active = getattr(model, "active_adapter", None)
    adapters = getattr(model, "peft_config", {})
    adapter = adapters.get(active) if isinstance(adapters, dict) and isinstance(active, str) else None
    virtual = getattr(adapter, "num_virtual_tokens", None) or 0
    return Positions(count - virtual, fixed=not any(hasattr(config, name) for name in _ROTARY))
