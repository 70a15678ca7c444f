"""A Hydra plugin. Hydra loads it in every program that uses Hydra; it acts only in open-unlearning."""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class RetainFirstSearchPath(SearchPathPlugin):
    """Registers retainfirst's configs and trainers in a program that has loaded open-unlearning's trainers."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Hydra calls this once, before it reads a config."""
        framework = sys.modules.get("trainer")
        # getattr could run code of another program's module.
        registry = getattr(framework, "__dict__", {}).get("TRAINER_REGISTRY")
        if isinstance(registry, dict) and "GradDiff" in registry:
            from retainfirst_open_unlearning.register import register

            register(framework, search_path)
