"""A Hydra plugin. Hydra loads it in every program that uses Hydra; it acts only in open-unlearning.

Importing it is enough to register retainfirst's trainers: with the framework's modules that are loaded, and with the others as
soon as they are. A launcher's workers import it with Hydra's state, whether or not they read configs.
"""

import sys
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

# The framework's modules with registries, and a function by which each is told from another program's module of that name.
_MODULES = {"trainer": "load_trainer", "evals": "get_evaluators", "data": "get_data", "model": "get_model"}


def _extend(module: ModuleType) -> None:
    # Not getattr, which could run code of another program's module.
    if callable(vars(module).get(_MODULES[module.__name__])):
        from retainfirst_open_unlearning.register import extend

        extend(module)


class _Watcher(MetaPathFinder):
    """Extends the registries of the framework's modules when they are imported."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find one of these modules where Python does, and have its loader call us when it is done."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _MODULES else None
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            loader.exec_module(module)
            _extend(module)

        loader.exec_module = exec_module
        return spec


class RetainFirstSearchPath(SearchPathPlugin):
    """Adds retainfirst's configs in open-unlearning."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Hydra calls this once, before it reads a config."""
        registry = getattr(sys.modules.get("trainer"), "__dict__", {}).get("TRAINER_REGISTRY")
        folders = [entry.path.removeprefix("file://") for entry in search_path.get_path() if entry.path]
        if (isinstance(registry, Mapping) and "GradDiff" in registry) or any(map(_is_frameworks, folders)):
            from retainfirst_open_unlearning.register import register

            register(sys.modules.get("trainer"), search_path)


def _is_frameworks(folder: str) -> bool:
    from pathlib import Path

    return Path(folder, "trainer", "GradDiff.yaml").is_file()


# Hydra may run this module twice.
if not any(type(finder).__name__ == "_Watcher" and type(finder).__module__ == __name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _Watcher())
for _name in _MODULES:
    if _name in sys.modules:
        _extend(sys.modules[_name])
