"""One optimiser step with two gradients: collect them separately, combine them, and leave the update in ``.grad``."""

from retainfirst.step._step import TwoTaskStep, check_memory_options

__all__ = ["TwoTaskStep", "check_memory_options"]
