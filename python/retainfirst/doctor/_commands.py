"""What is missing for which command."""

from __future__ import annotations

from collections.abc import Iterator

from retainfirst.doctor._finding import Finding
from retainfirst.doctor._libraries import PURPOSES, declared, problem, requirements

__all__ = ["NEEDS", "commands"]

_MODELS = ("transformers", "accelerate")

NEEDS = {
    "unlearn": ((*_MODELS, "platformdirs", "matplotlib"), "hf,plot"),
    "evaluate": ((*_MODELS, "lm-eval", "scipy", "rouge-score"), "eval"),
    "run": (_MODELS, "hf"),
    "reproduce": ((*_MODELS, "platformdirs", "lm-eval", "scipy", "matplotlib"), "eval,plot"),
    "verify": (("extension", "hypothesis", "z3-solver"), "verify"),
    "bench": (("extension",), ""),
}
"""What each command needs, libraries or the extension, and the extras that bring the libraries."""


def commands(extension: Finding) -> Iterator[Finding]:
    """Say of each command whether it can run; of none if it is not known what they need.

    Args:
        extension: What was found of the extension.
    """
    if not declared():
        return
    wrong = {one.name for extra in ("", *PURPOSES) for one in requirements(extra) if problem(one)}
    if extension.status != "ok":
        wrong.add("extension")
    for command, (needs, extras) in NEEDS.items():
        lacking = [one for one in needs if one in wrong]
        if not lacking:
            yield Finding("commands", command, "ok", "ready")
            continue
        advice = ["see extension"] if "extension" in lacking else []
        advice += [f"pip install --upgrade 'retainfirst[{extras}]'"] if set(lacking) - {"extension"} else []
        yield Finding("commands", command, "missing", f"needs {', '.join(lacking)}", "; ".join(advice))
