"""Questions and conversations as strings, through the tokenizer's chat template or plainly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retainfirst.data._padding import tokenizer_name
from retainfirst.errors import RetainFirstError, did_you_mean

__all__ = ["CHAT_TEMPLATE_MODES", "as_messages", "check_mode", "plain", "render", "use_template"]

CHAT_TEMPLATE_MODES = ("auto", "always", "never")
"""Whether questions and messages go through the tokenizer's chat template: if it has one, always, never."""

# Llama's templates print today's date unless they are given one; a run must not depend on its day.
_TEMPLATE_DATE = "26 Jul 2024"


def as_messages(row: Mapping[str, Any], form: str) -> list[dict[str, str]]:
    """Return a question or a conversation as messages of which the last is the assistant's."""
    if form == "answer":
        return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    messages = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
    while messages[-1]["role"] != "assistant":
        messages.pop()
    return messages


def check_mode(chat_template: str) -> None:
    """Refuse a mode that is not one of :data:`CHAT_TEMPLATE_MODES`."""
    if chat_template not in CHAT_TEMPLATE_MODES:
        raise RetainFirstError(
            f"Unknown chat template mode {chat_template!r}. {did_you_mean(str(chat_template), CHAT_TEMPLATE_MODES)}"
        )


def use_template(tokenizer: Any, chat_template: str) -> bool:
    """Decide by mode and tokenizer; refuse ``"always"`` where there is no template."""
    present = bool(tokenizer.chat_template)
    if chat_template == "always" and not present:
        raise RetainFirstError(
            f"The tokenizer of {tokenizer_name(tokenizer)} has no chat template. Use 'auto' or 'never'."
        )
    return present and chat_template != "never"


def render(tokenizer: Any, messages: list[dict[str, str]], where: str) -> tuple[str, str]:
    """Return the prompt, ready for an answer, and the whole conversation, by the chat template."""
    # Strings, not tokens: what apply_chat_template returns as tokens differs between versions.
    options = {"tokenize": False, "date_string": _TEMPLATE_DATE}
    try:
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, **options)
        whole = tokenizer.apply_chat_template(messages, add_generation_prompt=False, **options)
    except Exception as error:  # whatever the template raises, such as for a role that it does not know
        raise RetainFirstError(f"{where}: the chat template refuses the messages: {error}") from error
    return prompt, whole


def plain(messages: list[dict[str, str]], *, questions: bool) -> tuple[str, str]:
    """Return the prompt and the whole conversation as lines that begin with the speaker."""
    names = {"user": "Question", "assistant": "Answer"} if questions else {}
    turns = [f"{names.get(m['role'], m['role'].capitalize())}: {m['content']}" for m in messages]
    whole = "\n".join(turns)
    return whole.removesuffix(f" {messages[-1]['content']}"), whole
