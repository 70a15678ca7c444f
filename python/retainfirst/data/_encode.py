"""Rows to token ids, attention mask and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from retainfirst.data._sources import row_form
from retainfirst.data._templates import as_messages, check_mode, plain, render, use_template
from retainfirst.errors import RetainFirstError
from retainfirst.objectives._sequence import IGNORE_INDEX

__all__ = ["Example", "encode", "encode_and_cut"]


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
) -> Example:
    r"""Tokenise one row and label what shall be forgotten or retained.

    - ``text``: the text with the special tokens that the tokenizer adds; all but the first are labelled.
    - ``prompt``, ``completion``: tokenised as one string. A token is labelled if it differs from the prompt's
      own tokenisation, so that one which spans the boundary counts.
    - ``question``, ``answer`` and ``messages`` (cut after the last assistant turn): by the chat template;
      without one as ``"Question: ...\nAnswer: ..."`` and as ``"User: ...\nAssistant: ..."``. The last
      assistant turn is labelled, with the end-of-sequence token, which is appended where it is not last.

    Where the end-of-sequence token goes is as in open-unlearning (``src/data/utils.py``): not after texts
    and completions.

    Args:
        row: One of the four forms.
        tokenizer: A tokenizer of transformers.
        max_length: At least 2; tokens beyond are cut off.
        chat_template: One of :data:`CHAT_TEMPLATE_MODES`.
        where: The row's place, for error texts.

    Returns:
        The three lists, between 1 and ``max_length`` long. The labels are all -100 if the cut left no
        labelled token.

    Raises:
        RetainFirstError: The row or an option is not valid, a template is asked for and absent, or it
            refuses the row.
    """
    return encode_and_cut(row, tokenizer, max_length, chat_template, where)[0]


def encode_and_cut(
    row: Mapping[str, Any], tokenizer: Any, max_length: int, chat_template: str, where: str
) -> tuple[Example, bool]:
    """Return what :func:`encode` does, and whether the row was cut."""
    check_mode(chat_template)
    if max_length < 2:
        raise RetainFirstError(f"The maximal length must be at least 2 tokens, found {max_length}.")
    form = row_form(row, where)
    if form in ("text", "completion"):
        prompt = row["prompt"] if form == "completion" else ""
        answer = row["completion"] if form == "completion" else row["text"]
        prompt_ids, ids = (_tokenise(tokenizer, string) for string in (prompt, prompt + answer))
    else:
        messages = as_messages(row, form)
        if use_template(tokenizer, chat_template):
            prompt, whole = render(tokenizer, messages, where)
            prompt_ids, ids = (_tokenise(tokenizer, string, special=False) for string in (prompt, whole))
        else:
            prompt, whole = plain(messages, questions=form == "answer")
            prompt_ids, ids = (_tokenise(tokenizer, string) for string in (prompt, whole))
        if tokenizer.eos_token_id is not None and ids[-1] != tokenizer.eos_token_id:
            ids.append(tokenizer.eos_token_id)
    # The first token has no label: nothing predicts it.
    start = max(1, _common_prefix(prompt_ids, ids))
    labels = [IGNORE_INDEX] * start + ids[start:]
    kept = ids[:max_length]
    example = Example(input_ids=kept, attention_mask=[1] * len(kept), labels=labels[: len(kept)])
    return example, len(ids) > max_length


def _tokenise(tokenizer: Any, string: str, *, special: bool = True) -> list[int]:
    # verbose=False: the tokenizer's own warning about long rows comes without a row; ours are counted.
    return list(tokenizer(string, add_special_tokens=special, truncation=False, verbose=False)["input_ids"])


def _common_prefix(left: list[int], right: list[int]) -> int:
    length = min(len(left), len(right))
    return next((i for i in range(length) if left[i] != right[i]), length)
