"""The facts model and its tokenizer: construction, training, loading and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from retainfirst.errors import RetainFirstError, require
from retainfirst.progress import Progress
from retainfirst_lab.tasks._facts_rows import FactRow, FactsConfig, taught_rows
from retainfirst_lab.tasks._facts_words import FACTS_CONFIG_KEY, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["accuracy", "build_tokenizer", "read", "train"]

BATCH_SIZE = 128
LEARNING_RATE = 1e-3
WARMUP_STEPS = 20
CHECK_EVERY = 25
MAX_STEPS = 2000


def train(config: FactsConfig, *, progress: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train a new model until it knows every fact; see :func:`retainfirst_lab.tasks.facts.implant`."""
    require("transformers", "hf")
    tokenizer = build_tokenizer(config)
    model = _fresh_model(config, tokenizer)
    rows = taught_rows(config)
    tokens = _encode(rows, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    order = torch.Generator().manual_seed(config.seed)
    stage = "building the facts model: facts known"
    with Progress() as bar:
        if progress:
            bar.show(stage, 0, len(rows))
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
                if progress:
                    bar.show(stage, round(known * len(rows)), len(rows), f"step {step}")
                if known == 1.0:
                    return model.eval(), tokenizer
    raise RetainFirstError(
        f"The model knows {known:.0%} of {len(rows)} facts after {MAX_STEPS} steps. "
        f"Give a larger hidden_size than {config.hidden_size} or fewer people."
    )


def build_tokenizer(config: FactsConfig) -> PreTrainedTokenizerFast:
    """Return the tokenizer, which splits words at spaces and adds no special tokens."""
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
    """Load model and tokenizer from ``folder``, without network access."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[FactRow], batch_size: int = 512
) -> float:
    """Return the share of facts whose right object is the most probable of the four choices.

    Args:
        model: A causal language model; its training mode is restored.
        tokenizer: Its tokenizer, which must know every word of the facts.
        rows: The facts, at least one.
        batch_size: Rows of a forward pass.

    Returns:
        A number from 0 to 1; chance is 0.25. A logit that is not finite makes the answer wrong.

    Raises:
        RetainFirstError: There are no rows, or their prompts differ in length (they are not rows of this module).
    """
    if not rows:
        raise RetainFirstError("accuracy needs at least one row, found none.")
    prompts = [tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in rows]
    if len({len(prompt) for prompt in prompts}) != 1:
        raise RetainFirstError("accuracy needs prompts of one length in tokens: give rows of facts_data.")
    device = next(model.parameters()).device
    tokens = torch.tensor(prompts, device=device)
    choices = torch.tensor([tokenizer.convert_tokens_to_ids(row["choices"]) for row in rows], device=device)
    answers = torch.tensor([row["answer"] for row in rows], device=device)

    was_training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            logits = model(input_ids=tokens[part]).logits[:, -1].gather(1, choices[part])
            hit = (logits.argmax(1) == answers[part]) & logits.isfinite().all(1)
            right += int(hit.sum())
    model.train(was_training)
    return right / len(rows)


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
    """Return token ids of shape ``[rows, 6]``: three name words, relation, object, end token."""
    texts = [row["prompt"] + row["completion"] for row in rows]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    return torch.tensor(ids)


def _loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the object and the end token; the prompt has no loss."""
    logits = model(input_ids=tokens).logits[:, -3:-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, -2:].flatten())
