"""The tiers."""

from __future__ import annotations

from retainfirst_lab.reproduce.facts_tier import FULL, QUICK, FactsTier
from retainfirst_lab.reproduce.smollm2_tier import SmolTier

__all__ = ["FULL", "QUICK", "FactsTier", "SmolTier", "Tier"]

Tier = FactsTier | SmolTier
"""A tier. Both classes have these attributes and the same methods:

- ``name``: on the command line.
- ``main_testbed``: the test bed of the tables.
- ``sizes``: shared by all cells.
- ``seeds``: on which results are reported.
- ``development_seeds``: on which settings are chosen. If empty, every method gets the ``common`` gamma and learning rate.
- ``jobs``: the default number of processes.
- ``threads``: of each process; None: torch's default.
- ``checkpoints``: whether a cell can be resumed in its middle.
- ``guard``: the part on the guard; None: the tier has none.
- ``attacks``: the part on attacks; None: the tier has none.
- ``minutes``: the time budget. A cell that would end after it is not begun. None: no budget.
"""
