"""Rows to token ids, attention mask and labels."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from retainfirst.data._sources import row_form
from retainfirst.data._templates import ChatTemplate, Rendered, as_messages, check_mode, plain, use_template
from retainfirst.errors import RetainFirstError
from retainfirst.objectives import IGNORE_INDEX

__all__ = ["Encoder", "Example", "encode"]


class Example(TypedDict):
    """One tokenised row, not padded: three lists of the same length."""

    input_ids: list[int]
    attention_mask: list[int]
    labels: list[int]
    reference_logps: NotRequired[float]


def encode(
    row: Mapping[str, Any],
    tokenizer: Any,
    max_length: int,
    *,
    chat_template: str = "auto",
    where: str = "row",
    now: datetime | None = None,
) -> Example:
    r"""Tokenise one row and label the tokens to forget or retain.

    - ``text``: the text with the special tokens that the tokenizer adds; all tokens but the first are labelled.
    - ``prompt``, ``completion``: tokenised as one string. Each token that holds a character of the completion is
      labelled, so one that spans the boundary counts.
    - ``question``, ``answer`` and ``messages`` (cut after the last assistant turn): by the chat template; without one
      as ``"Question: ...\nAnswer: ..."`` and as ``"User: ...\nAssistant: ..."``. The text of the last assistant turn is
      labelled with its end token: the template's, or else the end-of-sequence token, which is appended. The row stops
      there.

    Args:
        row: One of the four forms.
        tokenizer: A tokenizer of transformers.
        max_length: At least 2; further tokens are cut off.
        chat_template: One of :data:`CHAT_TEMPLATE_MODES`.
        where: The row's place, for error texts.
        now: The time for chat templates that read the clock; None: 26 July 2024.

    Returns:
        The three lists, between 1 and ``max_length`` long. The labels are all -100 if the cut left no labelled token.

    Raises:
        RetainFirstError: The row or an option is not valid, a template is asked for and absent, or the template refuses
            the row, leaves a message out or changes the answer.
    """
    return Encoder(tokenizer, max_length, chat_template, now).encode(row, where)[0]


class Encoder:
    """Tokenises rows; the arguments are those of :func:`encode`."""

    def __init__(self, tokenizer: Any, max_length: int, chat_template: str, now: datetime | None = None) -> None:
        check_mode(chat_template)
        if max_length < 2:
            raise RetainFirstError(f"The maximal length must be at least 2 tokens, found {max_length}.")
        self._tokenizer, self._max_length, self._mode, self._now = tokenizer, max_length, chat_template, now
        self._template: ChatTemplate | None = None

    def encode(self, row: Mapping[str, Any], where: str) -> tuple[Example, bool]:
        """Return what :func:`encode` does, and whether the row was cut."""
        form = row_form(row, where)
        special = True
        if form in ("text", "completion"):
            prompt = str(row["prompt"]) if form == "completion" else ""
            answer = str(row["completion"] if form == "completion" else row["text"])
            rendered = Rendered(prompt + answer, len(prompt), ended=True)
        elif use_template(self._tokenizer, self._mode):
            if self._template is None:
                self._template = ChatTemplate(self._tokenizer, self._now)
            rendered = self._template.render(as_messages(row, form), where)
            special = False  # the template writes them itself
        else:
            rendered = plain(as_messages(row, form), questions=form == "answer")
        ids, start = self._tokenised(rendered, special, where)
        eos = self._tokenizer.eos_token_id
        if not rendered.ended and eos is not None and ids[-1] != eos:
            ids.append(eos)
        # The first token has no label: nothing predicts it.
        start = max(1, start)
        labels = [IGNORE_INDEX] * start + ids[start:]
        kept = ids[: self._max_length]
        example = Example(input_ids=kept, attention_mask=[1] * len(kept), labels=labels[: len(kept)])
        return example, len(ids) > self._max_length

    def _tokenised(self, rendered: Rendered, special: bool, where: str) -> tuple[list[int], int]:
        """Return the token ids, and the index of the first token that holds a character of the answer."""
        text, fast = rendered.text, bool(getattr(self._tokenizer, "is_fast", False))
        # verbose=False: we count rows that are too long, with their places.
        encoding = self._tokenizer(
            text, add_special_tokens=special, truncation=False, verbose=False, return_offsets_mapping=fast
        )
        ids = list(encoding["input_ids"])
        if fast:
            offsets = encoding["offset_mapping"]
            start = next((i for i, (_, stop) in enumerate(offsets) if stop > rendered.start), len(ids))
            # Some versions give all tokens of some tokenizers no width. Then the answer seems to start too late.
            first = offsets[start][0] if start < len(ids) else len(text)
            if any(begin < stop for begin, stop in offsets) and not text[rendered.start : first].strip():
                return ids, start
        prompt = self._tokenizer(text[: rendered.start], add_special_tokens=special, truncation=False, verbose=False)
        return ids, self._start_without_offsets(list(prompt["input_ids"]), ids, text[rendered.start :], where)

    def _start_without_offsets(self, prompt: list[int], ids: list[int], answer: str, where: str) -> int:
        """Find the first token of the answer by the tokens of the prompt alone, and by decoding."""
        start = common = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        wanted = "".join(answer.split())

        def holds_answer(first: int) -> bool:
            return wanted in "".join(self._decode(ids[first:]).split())

        if holds_answer(common):
            # The tokens of the prompt may change where the answer follows.
            while self._decode(ids[start : start + 1]).strip() and holds_answer(start + 1):
                start += 1
        elif common < len(prompt) - 1:
            raise RetainFirstError(
                f"{where}: the tokens of the answer cannot be told from those of the prompt; "
                f"{self._decode(ids[common:])!r} would be labelled. Use the fast version of the tokenizer (use_fast=True)."
            )
        return start

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
