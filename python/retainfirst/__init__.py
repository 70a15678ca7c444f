"""Retention-prioritised gradient synthesis for LLM unlearning.

A step takes two gradients separately, one to forget and one to retain, and combines them so that the update does not work
against retention.
"""

from retainfirst.combiners import (
    AGEM,
    BLUR,
    GRU,
    SAGO,
    Combiner,
    ElementwiseCombiner,
    NGDiff,
    Orthogonal,
    PCGrad,
    ProjectionCombiner,
    Sum,
    TorchJD,
    available_combiners,
    combine,
    make_combiner,
    register,
)
from retainfirst.errors import (
    DtypeMismatch,
    MissingDependency,
    NonFiniteGradient,
    RetainFirstError,
    ShapeMismatch,
    StaleGradient,
    StatementViolated,
    UnknownCombiner,
)
from retainfirst.extension import version as _version
from retainfirst.geometry import Geometry
from retainfirst.step import Guard, StepGeometry, TwoTaskStep, guard_step_

__version__ = _version()

__all__ = [
    "AGEM",
    "BLUR",
    "GRU",
    "SAGO",
    "Combiner",
    "DtypeMismatch",
    "ElementwiseCombiner",
    "Geometry",
    "Guard",
    "MissingDependency",
    "NGDiff",
    "NonFiniteGradient",
    "Orthogonal",
    "PCGrad",
    "ProjectionCombiner",
    "RetainFirstError",
    "ShapeMismatch",
    "StaleGradient",
    "StatementViolated",
    "StepGeometry",
    "Sum",
    "TorchJD",
    "TwoTaskStep",
    "UnknownCombiner",
    "available_combiners",
    "combine",
    "guard_step_",
    "make_combiner",
    "register",
]
