"""The plugin for open-unlearning, and a checkout of it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from retainfirst.doctor._finding import Finding
from retainfirst.doctor._libraries import installed_version, problem

__all__ = ["framework"]

_SECTION, _PLUGIN = "open-unlearning", "retainfirst-open-unlearning"


def framework(checkout: Path | None) -> Iterator[Finding]:
    """Look at the plugin, and at a checkout of the framework if one is given."""
    yield _plugin()
    if checkout is not None:
        yield _checkout(checkout)


def _plugin() -> Finding:
    version = installed_version(_PLUGIN)
    if version is None:
        advice = f"for every trainer of open-unlearning: pip install {_PLUGIN}"
        return Finding(_SECTION, "plugin", "missing", "not installed", advice)
    found = find_spec("hydra_plugins")
    places = [] if found is None else found.submodule_search_locations or []
    wrong = (
        [] if any(Path(place, "retainfirst_open_unlearning").is_dir() for place in places) else ["Hydra cannot see it"]
    )
    for text in metadata.requires(_PLUGIN) or []:
        one = Requirement(text)
        if one.name != "retainfirst" and one.marker is None:
            wrong += [reason] if (reason := problem(one)) else []
    if wrong:
        return Finding(
            _SECTION, "plugin", "broken", f"{version}: {'; '.join(wrong)}", f"pip install --upgrade {_PLUGIN}"
        )
    return Finding(_SECTION, "plugin", "ok", version)


def _checkout(folder: Path) -> Finding:
    for name in ("src/train.py", "configs/trainer/GradDiff.yaml"):
        if not (folder / name).is_file():
            text = f"{folder} is no checkout of the framework: it has no {name}"
            return Finding(_SECTION, "checkout", "broken", text, "give the folder that git clone made")
    trainers = sorted(path.stem for path in (folder / "configs" / "trainer").glob("*.yaml"))
    return Finding(_SECTION, "checkout", "ok", f"{folder}, with {len(trainers)} trainer configs")
