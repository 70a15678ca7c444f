"""Names for the framework's registries and configs. Nothing heavy is imported until one of them is asked for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore

__all__ = ["PREFIX", "register"]

PREFIX = "RetainFirst"
"""What stands before the name of the framework's own trainer."""

_NOT_UNLEARNING = ("Trainer", "FinetuneTrainer")

_logger = logging.getLogger(__name__)


def register(framework: Any, search_path: ConfigSearchPath) -> None:
    """Make trainers, evaluators, data sets and configs known to a running open-unlearning.

    Args:
        framework: Its module ``trainer``; ``evals`` and ``data`` are found beside it.
        search_path: Where Hydra looks for configs; the framework's own come first.
    """
    search_path.append("retainfirst", "pkg://retainfirst_open_unlearning.conf")
    for name, trainer in framework.TRAINER_REGISTRY.items():
        if name not in _NOT_UNLEARNING and not name.startswith(PREFIX):
            ConfigStore.instance().store(PREFIX + name, _config(name, trainer), "trainer", provider="retainfirst")
    _extend(framework, "TRAINER_REGISTRY", _make_trainer)
    _extend(sys.modules.get("evals"), "EVALUATOR_REGISTRY", _make_evaluator)
    _extend(sys.modules.get("data"), "DATASET_REGISTRY", _make_dataset)


def _extend(module: Any, registry: str, make: Callable[[str, dict[str, Any]], Any]) -> None:
    """Replace a registry by one that makes our entries too, unless it does already: a process may read configs twice."""
    entries = getattr(module, registry, None)
    if isinstance(entries, dict) and not isinstance(entries, _Registry):
        setattr(module, registry, _Registry(entries, make))


class _Registry(dict[str, Any]):
    """A registry of the framework that makes our entries when they are asked for, and says why if one cannot be made."""

    def __init__(self, entries: dict[str, Any], make: Callable[[str, dict[str, Any]], Any]) -> None:
        super().__init__(entries)
        self._make = make

    def __missing__(self, name: str) -> Any:
        if not isinstance(name, str) or not name.startswith(PREFIX):
            raise KeyError(name)
        try:
            self[name] = self._make(name, self)
        except Exception:
            # The framework's own words for an absent entry would be "not implemented or not registered".
            _logger.exception("retainfirst cannot provide %s", name)
            raise
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """As a dict's, with our entries in it."""
        try:
            return self[name]
        except KeyError:
            return default


def _config(name: str, trainer: type) -> dict[str, Any]:
    """Return the config of ``trainer=RetainFirst<name>``: the framework's own, our handler, and our options."""
    options: dict[str, Any] = {"combiner": "sago", "combiner_options": None, "scope": None}
    if not hasattr(trainer, "compute_retain_loss"):
        # It only forgets; the retain loss is borrowed, and so are its options.
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
