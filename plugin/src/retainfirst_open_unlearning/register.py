"""Adds our names to the framework's registries and configs. Heavy modules are imported when a name is first looked up."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore

__all__ = ["PREFIX", "extend", "register"]

PREFIX = "RetainFirst"
"""Our name for a trainer is this prefix and the framework's name."""

_DATA = "retainfirst_open_unlearning.data"
_HANDLER = re.compile(r"^handler:\s*['\"]?(\w+)", re.MULTILINE)
_NOT_UNLEARNING = ("Trainer", "FinetuneTrainer")

_logger = logging.getLogger(__name__)


def register(framework: Any, search_path: ConfigSearchPath) -> None:
    """Add our configs to a running open-unlearning, and our names to the registries of its modules that are loaded.

    Args:
        framework: Its module ``trainer``, or None if it is not loaded yet.
        search_path: Hydra's search path for configs; the framework's own come first.
    """
    search_path.append("retainfirst", "pkg://retainfirst_open_unlearning.conf")
    trainers: Mapping[str, Any] = getattr(framework, "TRAINER_REGISTRY", {})
    handlers = {name: name for name in trainers if not name.startswith(PREFIX)} | _handlers_in_configs(search_path)
    for config, handler in handlers.items():
        if handler not in _NOT_UNLEARNING:
            node = _config(config, handler, trainers.get(handler))
            ConfigStore.instance().store(PREFIX + config, node, "trainer", provider="retainfirst")
    for name in ("trainer", "evals", "data", "model"):
        extend(sys.modules.get(name))


def extend(module: Any) -> None:
    """Add our names to the registries of one of the framework's modules.

    Args:
        module: ``trainer``, ``evals``, ``data`` or ``model``. Other modules, and None, stay as they are.
    """
    for registry, make in _MAKERS.items():
        entries = getattr(module, registry, None)
        if isinstance(entries, MutableMapping) and not isinstance(entries, _Registry):
            setattr(module, registry, _Registry(entries, make))
    pairs = getattr(module, "ForgetRetainDataset", None)
    if isinstance(pairs, type) and pairs.__module__ != _DATA:
        from retainfirst_open_unlearning.data import make_pairs

        module.ForgetRetainDataset = make_pairs(pairs)  # the framework takes this class from here, not from a registry


class _Registry(MutableMapping[str, Any]):
    """A view of a registry of the framework that makes our entries at the first look-up, and logs the reason if it cannot.

    The registry itself stays in use: a fork may fill it later, at a look-up, or under another name.
    """

    def __init__(self, entries: MutableMapping[str, Any], make: Callable[[str, Mapping[str, Any]], Any]) -> None:
        self._entries, self._make = entries, make

    def __getitem__(self, name: str) -> Any:
        if isinstance(name, str) and name.startswith(PREFIX) and name not in self._entries:
            try:
                self._entries[name] = self._make(name, self._entries)
            except Exception:
                # The framework would only say "not implemented or not registered".
                _logger.exception("retainfirst cannot provide %s", name)
                raise
        return self._entries[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Do what the registry does, with our entries."""
        if isinstance(name, str) and name.startswith(PREFIX):
            return self[name]
        return self._entries.get(name, default)

    def __setitem__(self, name: str, entry: Any) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _handlers_in_configs(search_path: ConfigSearchPath) -> dict[str, str]:
    """Return the handlers of the trainer configs by their names: of a framework whose registry is empty or not loaded yet."""
    found = {}
    for entry in search_path.get_path():
        for file in sorted(Path(str(entry.path).removeprefix("file://"), "trainer").glob("*.yaml")):
            handler = _HANDLER.search(file.read_text(encoding="utf-8", errors="replace"))
            found[file.stem] = handler[1] if handler else file.stem
    return found


def _config(name: str, handler: str, trainer: Any) -> dict[str, Any]:
    """Return the config of ``trainer=RetainFirst<name>``: the framework's, with our handler and our options."""
    options: dict[str, Any] = {"combiner": "sago", "combiner_options": None, "scope": None}
    if isinstance(trainer, type) and not hasattr(trainer, "compute_retain_loss"):
        # It only forgets: GradDiff's retain loss is added, with its options.
        options |= {"alpha": 1.0, "gamma": 1.0, "retain_loss_type": "NLL"}
    return {"defaults": [name, "_self_"], "handler": PREFIX + handler, "method_args": options}


def _make_trainer(name: str, registry: Mapping[str, Any]) -> type:
    from retainfirst_open_unlearning.trainers import make_trainer

    return make_trainer(name, registry)


def _make_model(name: str, registry: Mapping[str, Any]) -> type:
    from retainfirst_open_unlearning.lora import make_model

    return make_model(name, registry)


def _make_evaluator(name: str, registry: Mapping[str, Any]) -> type:
    from retainfirst_open_unlearning.evaluator import make_evaluator

    return make_evaluator(name, registry)


def _make_dataset(name: str, registry: Mapping[str, Any]) -> type:
    from retainfirst_open_unlearning.data import make_dataset

    return make_dataset(name, registry)


def _make_collator(name: str, registry: Mapping[str, Any]) -> type:
    from retainfirst_open_unlearning.data import make_collator

    return make_collator(name, registry)


_MAKERS: Mapping[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "TRAINER_REGISTRY": _make_trainer,
    "MODEL_REGISTRY": _make_model,
    "EVALUATOR_REGISTRY": _make_evaluator,
    "DATASET_REGISTRY": _make_dataset,
    "COLLATOR_REGISTRY": _make_collator,
}
