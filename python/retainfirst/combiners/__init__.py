"""Combiners: each makes an update of a forget and a retain gradient. ``kernels`` compute it."""

from retainfirst.combiners._agem import AGEM
from retainfirst.combiners._base import Combiner
from retainfirst.combiners._blur import BLUR
from retainfirst.combiners._checks import check_pairs
from retainfirst.combiners._combine import combine
from retainfirst.combiners._elementwise import ElementwiseCombiner
from retainfirst.combiners._gru import GRU
from retainfirst.combiners._ngdiff import NGDiff
from retainfirst.combiners._orthogonal import Orthogonal
from retainfirst.combiners._pcgrad import PCGrad
from retainfirst.combiners._projection import ProjectionCombiner
from retainfirst.combiners._registry import (
    available_combiners,
    check_schedule,
    combiner_options,
    make_combiner,
    register,
    resolve,
    resolve_scheduled,
)
from retainfirst.combiners._sago import SAGO
from retainfirst.combiners._sum import Sum
from retainfirst.combiners._torchjd import TorchJD

__all__ = [
    "AGEM",
    "BLUR",
    "GRU",
    "SAGO",
    "Combiner",
    "ElementwiseCombiner",
    "NGDiff",
    "Orthogonal",
    "PCGrad",
    "ProjectionCombiner",
    "Sum",
    "TorchJD",
    "available_combiners",
    "check_pairs",
    "check_schedule",
    "combine",
    "combiner_options",
    "make_combiner",
    "register",
    "resolve",
    "resolve_scheduled",
]
