"""One optimiser step with two gradients: collect them separately, combine them, and leave the update in ``.grad``."""

from retainfirst.step._guard import GUARD_MODES, Guard, GuardMode, guard_step_
from retainfirst.step._options import check_memory_options
from retainfirst.step._step import TwoTaskStep
from retainfirst.step._step_geometry import StepGeometry

__all__ = ["GUARD_MODES", "Guard", "GuardMode", "StepGeometry", "TwoTaskStep", "check_memory_options", "guard_step_"]
