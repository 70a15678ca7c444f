"""What runs inside each process: cases one after the other, and their findings as JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

Case = Callable[[], dict]


def main(cases: dict[str, Case], backend: str = "gloo") -> None:
    """Run all cases. One that raises is noted with its traceback; if only some processes raise, the others time out."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group(backend, timeout=timedelta(seconds=30))
    found = {}
    for name, case in cases.items():
        try:
            found[name] = case()
        except Exception:
            found[name] = {"raised": traceback.format_exc()}
    (folder / f"result{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
