"""Adds our names to the framework's registries and configs. Heavy modules are imported when a name is first looked up."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore

__all__ = ["PREFIX", "register"]

PREFIX = "RetainFirst"
"""Our name for a trainer is this prefix and the framework's name."""

_NOT_UNLEARNING = ("Trainer", "FinetuneTrainer")

_logger = logging.getLogger(__name__)


def register(framework: Any, search_path: ConfigSearchPath) -> None:
    """Add trainers, evaluators, data sets and configs to a running open-unlearning.

    Args:
        framework: Its module ``trainer``. Its modules ``evals`` and ``data`` are used if they are loaded.
        search_path: Hydra's search path for configs; the framework's own come first.
    """
    search_path.append("retainfirst", "pkg://retainfirst_open_unlearning.conf")
    for name, trainer in framework.TRAINER_REGISTRY.items():
        if name not in _NOT_UNLEARNING and not name.startswith(PREFIX):
            ConfigStore.instance().store(PREFIX + name, _config(name, trainer), "trainer", provider="retainfirst")
    _extend(framework, "TRAINER_REGISTRY", _make_trainer)
    _extend(sys.modules.get("evals"), "EVALUATOR_REGISTRY", _make_evaluator)
    _extend(sys.modules.get("data"), "DATASET_REGISTRY", _make_dataset)


def _extend(module: Any, registry: str, make: Callable[[str, dict[str, Any]], Any]) -> None:
    """Replace a registry by one that also makes our entries. Done once: a process may read configs twice."""
    entries = getattr(module, registry, None)
    if isinstance(entries, dict) and not isinstance(entries, _Registry):
        setattr(module, registry, _Registry(entries, make))


class _Registry(dict[str, Any]):
    """A registry of the framework that makes our entries at the first look-up, and logs the reason if it cannot."""

    def __init__(self, entries: dict[str, Any], make: Callable[[str, dict[str, Any]], Any]) -> None:
        super().__init__(entries)
        self._make = make

    def __missing__(self, name: str) -> Any:
        if not isinstance(name, str) or not name.startswith(PREFIX):
            raise KeyError(name)
        try:
            self[name] = self._make(name, self)
        except Exception:
            # The framework would only say "not implemented or not registered".
            _logger.exception("retainfirst cannot provide %s", name)
            raise
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Do what a dict does, with our entries."""
        try:
            return self[name]
        except KeyError:
            return default


def _config(name: str, trainer: type) -> dict[str, Any]:
    """Return the config of ``trainer=RetainFirst<name>``: the framework's, with our handler and our options."""
    options: dict[str, Any] = {"combiner": "sago", "combiner_options": None, "scope": None}
    if not hasattr(trainer, "compute_retain_loss"):
        # It only forgets: GradDiff's retain loss is added, with its options.
        options |= {"alpha": 1.0, "gamma": 1.0, "retain_loss_type": "NLL"}
    return {"defaults": [name, "_self_"], "handler": PREFIX + name, "method_args": options}


def _make_trainer(name: str, registry: dict[str, Any]) -> type:
    from retainfirst_open_unlearning.trainers import make_trainer

    return make_trainer(name, registry)


def _make_evaluator(name: str, registry: dict[str, Any]) -> type:
    from retainfirst_open_unlearning.rwku import make_evaluator

    return make_evaluator(name, registry)


def _make_dataset(name: str, registry: dict[str, Any]) -> type:
    from retainfirst_open_unlearning.rwku_data import make_dataset

    return make_dataset(name, registry)
