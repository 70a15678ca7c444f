"""The extension, and which backend combines gradients on which device."""

from __future__ import annotations

import importlib
import os
import platform
import warnings
from collections.abc import Iterator

import torch

from retainfirst import __version__
from retainfirst.combiners import combine
from retainfirst.doctor._finding import Finding, first_line
from retainfirst.kernels import backend_for

__all__ = ["devices", "extension"]

_MODULE = "retainfirst._rust"
_AGAIN = "install it again (pip install --force-reinstall --no-deps retainfirst; in a clone: make test)"


def extension() -> Finding:
    """Look at the compiled extension."""
    try:
        module = importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name == _MODULE:
            advice = (
                "for the Rust kernels and retainfirst.reference: install a wheel for this platform, or build with Rust"
            )
            return Finding("compute", "extension", "missing", "not installed, combining in plain torch", advice)
        return Finding("compute", "extension", "broken", f"cannot be loaded ({first_line(error)})", _AGAIN)
    except ImportError as error:
        return Finding("compute", "extension", "broken", f"cannot be loaded ({first_line(error)})", _AGAIN)
    built = getattr(module, "__version__", None)
    if built != __version__:
        words = f"built for {built}" if built else "built of other sources"
        text = f"{words}, but retainfirst is {__version__}"
        return Finding("compute", "extension", "broken", text, _AGAIN)
    return Finding(
        "compute", "extension", "ok", f"{built}, {module.instruction_set()}, {module.get_num_threads()} threads"
    )


def devices() -> Iterator[Finding]:
    """Combine a pair of gradients on each device, and look at which backend does it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    about = f"{cores} cores, {torch.get_num_threads()} threads of torch"
    yield _device(torch.device("cpu"), f"{platform.machine()}, {about}")
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        about = f"{torch.cuda.get_device_name(i)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield _device(torch.device("cuda", i), about)
    if torch.backends.mps.is_available():
        yield _device(torch.device("mps"), "Apple GPU")
    elif not torch.cuda.device_count():
        built = "this torch is built for CUDA" if torch.version.cuda else "this torch is built without CUDA"
        yield Finding("compute", "gpu", "missing", f"torch finds none; {built}")


def _device(device: torch.device, about: str) -> Finding:
    name = str(device)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            forget, retain = _pair(device)
            backend = backend_for(forget, retain)
            update = combine(forget, retain, "sago")
    except Exception as error:  # a driver or a compiler may raise anything
        return Finding(
            "compute",
            name,
            "broken",
            f"{about}: {first_line(error)}",
            "see the message; RETAINFIRST_BACKEND=eager works without kernels",
        )
    if update.tolist() != torch.tensor([1.0, 0.4]).tolist():
        return Finding(
            "compute", name, "broken", f"{about}: {backend} combines wrongly, {update.tolist()}", "please report this"
        )
    text = f"{about}: combined by {_WORDS[backend]}"
    if device.type == "cuda" and backend == "eager":
        reasons = "; ".join(str(one.message) for one in caught) or "Triton is not installed"
        return Finding("compute", name, "missing", text, f"for the Triton kernels: {reasons}")
    return Finding("compute", name, "ok", text)


def _pair(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a forget and a retain gradient, of which SAGO makes (1, 0.4)."""
    return torch.tensor([-5.0, 0.4], device=device), torch.tensor([1.0, 10.0], device=device)


_WORDS = {"rust": "Rust kernels", "triton": "Triton kernels", "eager": "plain torch"}
