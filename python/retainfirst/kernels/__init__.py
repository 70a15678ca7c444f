"""Kernels compute an update: Rust on the CPU, Triton on a GPU, eager torch anywhere.

``combiners`` decide what to compute.
"""

from retainfirst.kernels._backend import BACKENDS, current_backend, use_backend
from retainfirst.kernels._dispatch import FAST, Formula, backend_for, elementwise_, linear_, moments
from retainfirst.kernels._guard import guard_
from retainfirst.kernels._tensors import Tensors

__all__ = [
    "BACKENDS",
    "FAST",
    "Formula",
    "Tensors",
    "backend_for",
    "current_backend",
    "elementwise_",
    "guard_",
    "linear_",
    "moments",
    "use_backend",
]
