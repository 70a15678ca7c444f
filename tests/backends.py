"""The backends of the combiners' tests: all, or those of ``RETAINFIRST_TEST_BACKENDS=auto,eager pytest tests/unit/combiners``."""

from __future__ import annotations

import os

from retainfirst import kernels

__all__ = ["BACKENDS"]

_chosen = os.environ.get("RETAINFIRST_TEST_BACKENDS")
BACKENDS = tuple(_chosen.split(",")) if _chosen else kernels.BACKENDS
