"""What runs inside each process: cases one after the other, and their findings as JSON."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed as dist

from retainfirst import RetainFirstError
from retainfirst.engines import _host

Case = Callable[[], dict]


def refusal(act: Callable[[], object]) -> dict[str, str]:
    """Return the text with which retainfirst refuses; nothing if it does not."""
    try:
        act()
    except RetainFirstError as error:
        return {"refused": str(error)}
    return {}


def main(cases: dict[str, Case], backend: str | None = "gloo") -> None:
    """Run all cases. One that raises is noted with its traceback; if only some processes raise, the others time out.

    Without a backend the cases set up processes themselves, or none.
    """
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    if backend:
        dist.init_process_group(backend, timeout=timedelta(seconds=30))
    found = {}
    for name, case in cases.items():
        try:
            found[name] = case()
        except Exception:
            found[name] = {"raised": traceback.format_exc()}
    (folder / f"result{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))
    if dist.is_initialized():
        dist.destroy_process_group()


def moving_on_the_cpu() -> AbstractContextManager[Any]:
    """Return the context in which offloaded gradients move although there is one device: to another place on it."""
    return mock.patch.object(_host, "_is_away", return_value=True)
