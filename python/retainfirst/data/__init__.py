"""Forget and retain data: files or hub names to paired, tokenised batches.

A row has one of four forms. A file may mix them; further keys are ignored:

- ``{"text": ...}``: all tokens but the first are labelled.
- ``{"prompt": ..., "completion": ...}``: one string; the completion's tokens are labelled.
- ``{"question": ..., "answer": ...}``: by the chat template or as plain lines; the answer and its end token are
  labelled.
- ``{"messages": [{"role": ..., "content": ...}, ...]}``: the same, for the last assistant turn.
"""

from __future__ import annotations

from retainfirst.data._batches import PairedCollator, collate
from retainfirst.data._encode import Example, encode
from retainfirst.data._files import file_rows
from retainfirst.data._padding import pad_token_id, set_pad_token
from retainfirst.data._pairs import PAIRINGS, PairedDataset, load_pairs
from retainfirst.data._positions import Positions, positions
from retainfirst.data._sets import EncodedSet, encode_rows
from retainfirst.data._sources import read_rows, row_form
from retainfirst.data._templates import CHAT_TEMPLATE_MODES

__all__ = [
    "CHAT_TEMPLATE_MODES",
    "PAIRINGS",
    "EncodedSet",
    "Example",
    "PairedCollator",
    "PairedDataset",
    "Positions",
    "collate",
    "encode",
    "encode_rows",
    "file_rows",
    "load_pairs",
    "pad_token_id",
    "positions",
    "read_rows",
    "row_form",
    "set_pad_token",
]
