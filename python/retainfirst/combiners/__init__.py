"""The rules: what update to make of a forget and a retain gradient. How it is computed is in ``kernels``."""

from retainfirst.combiners._base import Combiner
from retainfirst.combiners._blur import BLUR
from retainfirst.combiners._checks import check_pairs
from retainfirst.combiners._combine import combine, resolve
from retainfirst.combiners._pcgrad import PCGrad
from retainfirst.combiners._registry import available_combiners, make_combiner
from retainfirst.combiners._sago import SAGO
from retainfirst.combiners._sum import Sum
from retainfirst.combiners._torchjd import TorchJD

__all__ = [
    "BLUR",
    "SAGO",
    "Combiner",
    "PCGrad",
    "Sum",
    "TorchJD",
    "available_combiners",
    "check_pairs",
    "combine",
    "make_combiner",
    "resolve",
]
