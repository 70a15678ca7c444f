"""``retainfirst run`` for launchers: ``torchrun --nproc_per_node 2 -m retainfirst.run [OPTIONS] SCRIPT [ARGUMENT]...``."""

from __future__ import annotations

from retainfirst.cli import main, run_app

if __name__ == "__main__":
    main(run_app)
