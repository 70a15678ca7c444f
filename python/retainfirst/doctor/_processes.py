"""The engines for several processes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from torch import distributed

from retainfirst.doctor._finding import Finding
from retainfirst.doctor._libraries import installed_version

__all__ = ["engines"]

_SECTION = "several processes"


def engines() -> Iterator[Finding]:
    """Look at DDP, FSDP and DeepSpeed."""
    if not distributed.is_available():
        text = "this torch is built without torch.distributed"
        yield from (Finding(_SECTION, name, "missing", text) for name in ("DDP", "FSDP", "DeepSpeed"))
        return
    backends = [name for name in ("gloo", "nccl", "mpi") if getattr(distributed, f"is_{name}_available")()]
    yield Finding(_SECTION, "DDP", "ok", f"over {', '.join(backends)}")
    second = any(find_spec(f"torch.distributed.{name}") for name in ("fsdp._fully_shard", "_composable.fsdp"))
    yield Finding(_SECTION, "FSDP", "ok", "FSDP 1 and 2" if second else "FSDP 1")
    version = installed_version("deepspeed")
    if version is None:
        yield Finding(_SECTION, "DeepSpeed", "missing", "not installed", "pip install 'retainfirst[deepspeed]'")
    else:
        yield Finding(_SECTION, "DeepSpeed", "ok", version)
