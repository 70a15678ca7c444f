"""How the facts model and its tokenizer are made, trained and read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from retainfirst.errors import RetainFirstError, require
from retainfirst_lab.tasks._facts_words import FACTS_CONFIG_KEY, vocabulary
from retainfirst_lab.tasks.facts import FactRow, FactsConfig, accuracy, taught_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["build_tokenizer", "read", "train"]

BATCH_SIZE = 128
LEARNING_RATE = 1e-3
WARMUP_STEPS = 20
CHECK_EVERY = 25
MAX_STEPS = 2000


def train(config: FactsConfig, *, progress: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Implant the facts; see :func:`retainfirst_lab.tasks.facts.implant`."""
    require("transformers", "hf")
    from rich.console import Console
    from rich.progress import Progress

    tokenizer = build_tokenizer(config)
    model = _fresh_model(config, tokenizer)
    rows = taught_rows(config)
    tokens = _encode(rows, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    order = torch.Generator().manual_seed(config.seed)
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("implanting facts", total=1.0)
        for step in range(1, MAX_STEPS + 1):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, step / WARMUP_STEPS)
            batch = tokens[torch.randint(len(rows), (BATCH_SIZE,), generator=order)]
            _loss(model, batch).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % CHECK_EVERY == 0:
                known = accuracy(model, tokenizer, rows)
                bar.update(task, completed=known, description=f"implanting facts, step {step}")
                if known == 1.0:
                    return model.eval(), tokenizer
    raise RetainFirstError(
        f"The model knows {known:.0%} of {len(rows)} facts after {MAX_STEPS} steps. "
        f"Give a larger hidden_size than {config.hidden_size} or fewer people."
    )


def build_tokenizer(config: FactsConfig) -> PreTrainedTokenizerFast:
    """Return the tokenizer: words split at spaces, no token added on its own."""
    require("transformers", "hf")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(vocab=vocabulary(extended=config.extended), unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=64,
        padding_side="right",
    )


def read(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load model and tokenizer from ``folder`` without asking any hub."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _fresh_model(config: FactsConfig, tokenizer: PreTrainedTokenizerFast) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=4 * config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        **{FACTS_CONFIG_KEY: asdict(config)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return LlamaForCausalLM(settings).float().train()


def _encode(rows: list[FactRow], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return token ids of shape (rows, 6): three name words and the relation, object, end."""
    texts = [row["prompt"] + row["completion"] for row in rows]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    return torch.tensor(ids)


def _loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the object and the end token: the prompt is given, not learned."""
    logits = model(input_ids=tokens).logits[:, -3:-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, -2:].flatten())
