"""What a model says: greedy answers to the prompts of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from retainfirst.data import EncodedSet, Example, pad_token_id, positions
from retainfirst.errors import RetainFirstError
from retainfirst.objectives import IGNORE_INDEX, evaluation_mode

__all__ = ["Answer", "generate_answers"]


@dataclass(frozen=True)
class Answer:
    """One row's prompt, the answer that the row has, and the answer that the model gives.

    Attributes:
        prompt: The text before the answer, without special tokens.
        reference: The labelled text.
        text: What the model says.
        tokens: The tokens of what it says, without special ones.
    """

    prompt: str
    reference: str
    text: str
    tokens: tuple[int, ...]


def generate_answers(
    model: Any,
    tokenizer: Any,
    examples: EncodedSet | Sequence[Example],
    *,
    max_new_tokens: int = 200,
    batch_size: int = 16,
    advance: Callable[[int], Any] | None = None,
) -> list[Answer]:
    """Let a model answer the prompts of rows greedily.

    A row's prompt is what stands before its first labelled token. An answer ends at the tokenizer's end-of-sequence token, at
    those of the model's generation settings, or after ``max_new_tokens``, open-unlearning's 200.

    Args:
        model: A causal language model of transformers; its training mode is restored afterwards.
        tokenizer: Its tokenizer, with a pad token.
        examples: The rows.
        max_new_tokens: The largest number of tokens of an answer. A model with a table of positions stops at its end.
        batch_size: Prompts that are answered together; prompts of like length are together.
        advance: Called after each batch with its number of rows.

    Returns:
        One answer a row, in the rows' order.

    Raises:
        RetainFirstError: A prompt leaves no position for an answer, or the tokenizer has no pad token.
    """
    rows = [examples[i] for i in range(len(examples))]
    starts = [next(i for i, label in enumerate(row["labels"]) if label != IGNORE_INDEX) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -starts[i])
    found: list[Answer | None] = [None] * len(rows)
    pad = pad_token_id(tokenizer)
    with torch.no_grad(), evaluation_mode(model):
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            prompts = [list(rows[i]["input_ids"])[: starts[i]] for i in chosen]
            said = _continue(model, tokenizer, prompts, pad, _room(model, max(map(len, prompts)), max_new_tokens))
            for i, prompt, tokens in zip(chosen, prompts, said, strict=True):
                reference = [label for label in rows[i]["labels"] if label != IGNORE_INDEX]
                asked, right, text = (_text(tokenizer, ids) for ids in (prompt, reference, tokens))
                kept = tuple(one for one in tokens if one not in tokenizer.all_special_ids)
                found[i] = Answer(asked, right, text, kept)
            if advance is not None:
                advance(len(chosen))
    return [one for one in found if one is not None]


def _room(model: Any, prompt: int, wanted: int) -> int:
    limit = positions(model)
    if limit is None or not limit.fixed:
        return wanted
    if prompt >= limit.count:
        raise RetainFirstError(
            f"A prompt has {prompt} tokens, and the model has {limit.count} positions: none is left for an answer. "
            "Shorten the row."
        )
    return min(wanted, limit.count - prompt)


def _continue(model: Any, tokenizer: Any, prompts: Sequence[list[int]], pad: int, room: int) -> list[list[int]]:
    longest = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[pad] * (longest - len(one)) + one for one in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=device)
    ends = _ends(model, tokenizer)
    output = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=room, do_sample=False, num_beams=1, temperature=None, top_p=None,
        top_k=None, use_cache=True, pad_token_id=pad, eos_token_id=ends or None,
    )  # fmt: skip
    return [_until(row, ends) for row in output[:, longest:].tolist()]


def _ends(model: Any, tokenizer: Any) -> list[int]:
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return sorted({one for one in (*listed, tokenizer.eos_token_id) if one is not None})


def _until(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:stop])


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
