"""How an update is computed: Rust on the CPU, Triton on a GPU, torch.compile on other devices, eager torch anywhere.

What to compute is decided in ``combiners``.
"""

from retainfirst.kernels._dispatch import BACKENDS, elementwise_, linear_, moments, use_backend
from retainfirst.kernels._tensors import Tensors

__all__ = ["BACKENDS", "Tensors", "elementwise_", "linear_", "moments", "use_backend"]
