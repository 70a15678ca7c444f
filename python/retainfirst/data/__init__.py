"""Forget and retain data: files or hub names to paired, tokenised batches.

A row has one of four forms; a file may mix them, and further keys are left alone:

- ``{"text": ...}``: every token but the first is learned or forgotten.
- ``{"prompt": ..., "completion": ...}``: plain concatenation; the completion's tokens count.
- ``{"question": ..., "answer": ...}``: the tokenizer's chat template, or the plain format; the answer's
tokens count.
- ``{"messages": [{"role": ..., "content": ...}, ...]}``: the same, for the last assistant turn.
"""

from __future__ import annotations

from retainfirst.data._encode import Example, encode
from retainfirst.data._padding import pad_token_id, set_pad_token
from retainfirst.data._pairs import PAIRINGS, PairedCollator, PairedDataset, collate, load_pairs
from retainfirst.data._sets import EncodedSet, encode_rows
from retainfirst.data._sources import read_rows
from retainfirst.data._templates import CHAT_TEMPLATE_MODES

__all__ = [
    "CHAT_TEMPLATE_MODES",
    "PAIRINGS",
    "EncodedSet",
    "Example",
    "PairedCollator",
    "PairedDataset",
    "collate",
    "encode",
    "encode_rows",
    "load_pairs",
    "pad_token_id",
    "read_rows",
    "set_pad_token",
]
