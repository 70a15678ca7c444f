"""The pad token: which id pads, and what to do where a tokenizer has none."""

from __future__ import annotations

from typing import Any

from retainfirst.errors import RetainFirstError

__all__ = ["pad_token_id", "set_pad_token", "tokenizer_name"]


def pad_token_id(tokenizer: Any) -> int:
    """Return the id of the pad token.

    Raises:
        RetainFirstError: The tokenizer has none; the text says what to do.
    """
    if tokenizer.pad_token_id is None:
        suggestion = tokenizer.eos_token or "TOKEN"
        raise RetainFirstError(
            f"The tokenizer of {tokenizer_name(tokenizer)} has no pad token. Name one of its tokens for "
            f"padding: --pad-token '{suggestion}' on the command line, "
            f"set_pad_token(tokenizer, {suggestion!r}) in Python."
        )
    return int(tokenizer.pad_token_id)


def set_pad_token(tokenizer: Any, token: str) -> None:
    """Let ``tokenizer`` pad with a token that it already has, so that no embedding must be added.

    Args:
        tokenizer: A tokenizer of transformers; changed in place.
        token: A token of its vocabulary, such as its end-of-sequence token.

    Raises:
        RetainFirstError: The token is not in the vocabulary.
    """
    if token not in tokenizer.get_vocab():
        raise RetainFirstError(
            f"{token!r} is not in the vocabulary of {tokenizer_name(tokenizer)}. Give a token that is; "
            f"its special tokens: {', '.join(tokenizer.all_special_tokens) or 'none'}."
        )
    tokenizer.pad_token = token


def tokenizer_name(tokenizer: Any) -> str:
    """Return what an error text calls a tokenizer: where it came from, else its class."""
    return str(tokenizer.name_or_path or type(tokenizer).__name__)
