"""Which backends the tests of the rules take: ``RETAINFIRST_TEST_BACKENDS=auto,compile pytest tests/unit/test_combiners.py``."""

from __future__ import annotations

import os

from retainfirst import kernels

__all__ = ["BACKENDS"]

_chosen = os.environ.get("RETAINFIRST_TEST_BACKENDS")
BACKENDS = tuple(_chosen.split(",")) if _chosen else kernels.BACKENDS
