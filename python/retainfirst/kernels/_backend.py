"""The choice of a backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

from retainfirst.errors import MissingDependency, RetainFirstError, did_you_mean

__all__ = ["BACKENDS", "current_backend", "import_triton", "use_backend"]

BACKENDS = ("auto", "eager")
"""Backends that work on every machine."""

_NAMES = (*BACKENDS, "triton")
_BACKEND: ContextVar[str | None] = ContextVar("retainfirst_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend for the calls inside the block, over the ``RETAINFIRST_BACKEND`` environment variable.

    The choice holds for the current context (:mod:`contextvars`): other threads and tasks keep theirs.

    Args:
        name: ``"auto"`` (Rust on the CPU and Triton on a GPU, eager torch for every layout, device and combiner that they do
            not support), ``"eager"`` (plain torch everywhere) or ``"triton"`` (Triton on the CPU too, under
            ``TRITON_INTERPRET=1``; for tests: the interpreter truncates to bfloat16 instead of rounding).

    Raises:
        RetainFirstError: The name is unknown.
        MissingDependency: ``"triton"``, and Triton is not installed.
    """
    token = _BACKEND.set(_checked(name))
    try:
        yield
    finally:
        _BACKEND.reset(token)


def current_backend() -> str:
    """Return the backend of the current context.

    Raises:
        RetainFirstError: ``RETAINFIRST_BACKEND`` names an unknown one.
        MissingDependency: It is ``"triton"``, and Triton is not installed.
    """
    return _BACKEND.get() or _checked(os.environ.get("RETAINFIRST_BACKEND", "auto"))


def import_triton() -> ModuleType:
    """Import the Triton kernels.

    Raises:
        MissingDependency: Triton is not installed.
    """
    # Not at the top: Triton is slow to import, and few CPU machines have it.
    try:
        from retainfirst.kernels import _triton
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "The backend 'triton' needs Triton, which is not installed. Install it with: pip install triton"
        ) from error
    return _triton


def _checked(name: str) -> str:
    if name not in _NAMES:
        raise RetainFirstError(f"Unknown backend {name!r}. {did_you_mean(name, _NAMES)}")
    if name == "triton":
        import_triton()
    return name
