"""The reproduction of the paper's tables on a small model and a CPU (extras ``hf``, ``eval`` and ``plot``).

The command is ``retainfirst reproduce``; ``docs/reproduction.md`` explains the design and has the results.
"""

from __future__ import annotations

from retainfirst_lab.reproduce.run import PARTS, reproduce
from retainfirst_lab.reproduce.tiers import FULL, QUICK, FactsTier, SmolTier, Tier

__all__ = ["FULL", "PARTS", "QUICK", "FactsTier", "SmolTier", "Tier", "reproduce"]
