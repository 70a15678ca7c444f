"""A Llama with LoRA adapters on a frozen base, in the place of the model in ``setting``, whose importers need no transformers."""

from __future__ import annotations

import peft
import torch
from torch import Tensor, nn

import tiny


def adapted_llama() -> nn.Module:
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], r=3, init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return peft.get_peft_model(tiny.tiny_llama(), config)


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.llama = adapted_llama()

    @property
    def layers(self) -> nn.ModuleList:
        return self.llama.base_model.model.model.layers

    def forward(self, rows: Tensor, *_: object) -> Tensor:
        """Return one loss a row."""
        logits = self.llama(input_ids=rows).logits[:, :-1]
        return nn.functional.cross_entropy(logits.mT, rows[:, 1:], reduction="none").mean(1)


def make_adapted(dtype: torch.dtype = torch.float64, *, checkpointing: bool = False) -> Adapted:
    model = Adapted().to(dtype)
    if checkpointing:
        model.llama.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()
