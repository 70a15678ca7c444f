"""What is missing for which command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from retainfirst.doctor._finding import Finding

__all__ = ["NEEDS", "commands"]

NEEDS = {
    "unlearn": ("hf", "plot"),
    "evaluate": ("eval",),
    "run": ("hf",),
    "reproduce": ("eval", "plot"),
    "verify": ("extension", "verify"),
    "bench": ("extension", "hf"),
}
"""What each command needs: extras, and the extension."""


def commands(statuses: Mapping[str, str]) -> Iterator[Finding]:
    """Say of each command whether it can run.

    Args:
        statuses: The status of each extra and of the extension.
    """
    for command, needs in NEEDS.items():
        lacking = [one for one in needs if statuses[one] != "ok"]
        if not lacking:
            yield Finding("commands", command, "ok", "ready")
            continue
        wanted = ",".join(one for one in lacking if one != "extension")
        advice = [f"pip install --upgrade 'retainfirst[{wanted}]'"] if wanted else []
        advice += ["see the extension"] if "extension" in lacking else []
        yield Finding("commands", command, "missing", f"needs {', '.join(lacking)}", "; ".join(advice))
