"""The paper's tables on a small model and a CPU: what ``retainfirst reproduce`` does (extras ``hf``, ``eval`` and ``plot``)."""

from __future__ import annotations

from retainfirst_lab.reproduce.run import reproduce
from retainfirst_lab.reproduce.tiers import FULL, QUICK, FactsTier, SmolTier, Tier

__all__ = ["FULL", "QUICK", "FactsTier", "SmolTier", "Tier", "reproduce"]
