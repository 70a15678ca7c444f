"""LoRA adapters on a frozen base, each engine of torch beside one process on all rows."""

from __future__ import annotations

from functools import partial

import cases
from adapted import make_adapted
from fsdp_cases import train
from wraps import shard1, shard2

CASES = {
    f"{key}, {name}": partial(train, shard, name, make=partial(make_adapted, checkpointing=checkpointing))
    for key, shard, checkpointing in (
        ("FSDP", shard1, False),
        ("fully_shard", shard2, False),
        ("fully_shard with checkpointing", shard2, True),
    )
    for name in ("sago", "pcgrad module")
}

if __name__ == "__main__":
    cases.main(CASES)
