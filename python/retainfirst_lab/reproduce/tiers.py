"""The tiers."""

from __future__ import annotations

from retainfirst_lab.reproduce.facts_tier import FULL, QUICK, FactsTier
from retainfirst_lab.reproduce.smollm2_tier import SmolTier

__all__ = ["FULL", "QUICK", "FactsTier", "SmolTier", "Tier"]

Tier = FactsTier | SmolTier
"""What a run needs to know. Both have these attributes and the same methods:

- ``name``, as on the command line, and ``main_bench``, the bench of the tables;
- ``sizes``, what all cells share;
- ``seeds`` to report on, and ``development_seeds`` to choose settings on (none: every method gets the ``common`` ones, gamma and
  learning rate);
- ``jobs``, processes if the user says nothing, and ``threads`` of each of them (None: torch's own number);
- ``checkpoints``, whether cells take so long that they are resumed in their midst;
- ``minutes``, within which cells must be expected to end to be begun (None: no limit).
"""
