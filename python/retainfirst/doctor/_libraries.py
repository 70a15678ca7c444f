"""The libraries: those that are needed, and those of the extras."""

from __future__ import annotations

import contextlib
import importlib
import io
import platform
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import metadata

import torch
from packaging.requirements import Requirement

from retainfirst import __version__
from retainfirst.doctor._finding import Finding, first_line

__all__ = ["PURPOSES", "declared", "extras", "installed_version", "needed", "problem", "requirements"]

PURPOSES = {
    "hf": "models of transformers: unlearn, run, TwoTaskTrainer, the built-in facts model",
    "eval": "evaluate, reproduce, unlearn --evaluate full",
    "plot": "curves and figures: unlearn, reproduce, reports of evaluate",
    "quantize": "evaluate --quantize nf4, and models with 4-bit weights",
    "smollm2": "SmolLM2 without a model hub (python -m retainfirst_lab.tasks.smollm2)",
    "verify": "verify, and retainfirst.testing.check_combiner",
    "deepspeed": "training under DeepSpeed's ZeRO",
    "torchjd": "the combiners torchjd:NAME",
}
"""What each extra is for."""

_DISTRIBUTION = "retainfirst"
_MODULES = {"z3-solver": "z3", "hydra-core": "hydra"}


def needed() -> list[Finding]:
    """Look at Python, at this library, and at the libraries without which it does not work."""
    section = "libraries"
    found = [Finding(section, "python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")]
    if not declared():
        text = f"{__version__}, on Python's path but not installed: libraries, extras and commands were not looked at"
        return [*found, Finding(section, "retainfirst", "broken", text, "pip install FOLDER, that of the checkout")]
    found.append(Finding(section, "retainfirst", "ok", __version__))
    for one in requirements():
        wrong = problem(one)
        text = wrong or _version_text(one.name)
        advice = f"pip install --upgrade '{one.name}{one.specifier}'" if wrong else ""
        found.append(Finding(section, one.name, "broken" if wrong else "ok", text, advice))
    return found


def extras() -> Iterator[Finding]:
    """Look at the libraries of each extra; at none if it is not known what they are."""
    if not declared():
        return
    for extra, purpose in PURPOSES.items():
        everything = list(requirements(extra))
        install = f"pip install --upgrade '{_DISTRIBUTION}[{extra}]'"
        absent = [one.name for one in everything if installed_version(one.name) is None]
        wrong = [text for one in everything if one.name not in absent and (text := problem(one))]
        if wrong:
            yield Finding("extras", extra, "broken", "; ".join(wrong), f"for {purpose}: {install}")
        elif absent:
            text = f"not installed: {', '.join(absent)}"
            yield Finding("extras", extra, "missing", text, f"for {purpose}: {install}")
        elif not everything:
            yield Finding("extras", extra, "ok", "needs nothing more")
        else:
            yield Finding(
                "extras", extra, "ok", ", ".join(f"{one.name} {_version_text(one.name)}" for one in everything)
            )


def declared() -> bool:
    """Whether it is known what is needed: it is written where the library is installed."""
    return installed_version(_DISTRIBUTION) is not None


def requirements(extra: str = "") -> Iterator[Requirement]:
    """Yield what an extra adds, with the extras that it contains; "": what is always needed."""
    for text in metadata.requires(_DISTRIBUTION) or []:
        one = Requirement(text)
        applies = one.marker is None or one.marker.evaluate({"extra": extra})
        if applies and (one.marker is not None or not extra):
            if one.name == _DISTRIBUTION:
                for inner in sorted(one.extras):
                    yield from requirements(inner)
            else:
                yield one


def installed_version(name: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def problem(one: Requirement) -> str:
    """Return what is wrong with a library: it is absent, of another version, or cannot be imported; "" if nothing is."""
    version = installed_version(one.name)
    if version is None:
        return f"{one.name} is not installed"
    if not one.specifier.contains(version, prereleases=True):
        return f"{one.name} {version}, but {one.specifier} is needed"
    reason = _import_error(_MODULES.get(one.name, one.name.replace("-", "_")))
    return f"{one.name} {version} cannot be imported ({reason})" if reason else ""


@cache
def _import_error(module: str) -> str:
    """Return why a module cannot be imported, or ""; what it prints and warns is swallowed."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # a broken library may raise anything
            return first_line(error)
    return ""


def _version_text(name: str) -> str:
    version = installed_version(name) or "not installed"
    if name != "torch":
        return version
    return f"{version}, built for CUDA {torch.version.cuda}" if torch.version.cuda else f"{version}, built without CUDA"
