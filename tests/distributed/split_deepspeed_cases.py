"""A trainer that others wrote, split, with DeepSpeed as transformers and accelerate set it up."""

from __future__ import annotations

import os
from functools import partial

import torch

import cases
from hf_deepspeed_cases import with_deepspeed
from split_cases import against_one, against_own

OWN = {f"stage {stage}": partial(against_own, dtype=torch.float32, **with_deepspeed(stage)) for stage in (1, 2, 3)}
ONE = {
    f"stage {stage}, sago": partial(against_one, "sago", dtype=torch.float32, **with_deepspeed(stage))
    for stage in (2, 3)
}

if __name__ == "__main__":
    cases.main(ONE | (OWN if os.environ["WORLD_SIZE"] != "1" else {}))
