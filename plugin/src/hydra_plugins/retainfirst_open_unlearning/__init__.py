"""Found by Hydra in every program on the machine that uses it; does something in open-unlearning alone."""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class RetainFirstSearchPath(SearchPathPlugin):
    """Makes retainfirst's configs and trainers known where open-unlearning's trainers are loaded."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra once, before it reads any config."""
        framework = sys.modules.get("trainer")
        # Not by getattr, which may run code of a module that is not the framework's.
        registry = getattr(framework, "__dict__", {}).get("TRAINER_REGISTRY")
        if isinstance(registry, dict) and "GradDiff" in registry:
            from retainfirst_open_unlearning.register import register

            register(framework, search_path)
