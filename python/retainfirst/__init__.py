"""Retention-prioritised gradient synthesis for LLM unlearning.

Two gradients are taken apart, one to forget and one to retain, and combined so that forgetting never works against retention.
"""

from retainfirst.combiners import (
    BLUR,
    SAGO,
    Combiner,
    PCGrad,
    Sum,
    TorchJD,
    available_combiners,
    combine,
    make_combiner,
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
from retainfirst.geometry import Geometry
from retainfirst.step import TwoTaskStep

__version__ = "0.1.0"

__all__ = [
    "BLUR",
    "SAGO",
    "Combiner",
    "DtypeMismatch",
    "Geometry",
    "MissingDependency",
    "NonFiniteGradient",
    "PCGrad",
    "RetainFirstError",
    "ShapeMismatch",
    "StaleGradient",
    "StatementViolated",
    "Sum",
    "TorchJD",
    "TwoTaskStep",
    "UnknownCombiner",
    "available_combiners",
    "combine",
    "make_combiner",
]
